"""Error files: each rank that fails writes why before it exits, so that the first cause can be reported."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, NoReturn

from attrs import frozen

from ni_framework.utils.atomic_files import atomic_write, open_regular_file

# A character takes at most twelve bytes in JSON.
_MAX_MESSAGE_CHARS, _MAX_ERROR_FILE_BYTES = 100_000, 2_000_000


@frozen
class RankErrorRecord:
    """The error of one rank: when it was written (seconds since the epoch), its message, and the rank's exit code."""

    rank: int
    time: float
    message: str
    exit_code: int


def write_error_file(folder: Path, rank: int, message: str, exit_code: int) -> None:
    """Writes why a rank fails. Raises nothing if that fails too, because the rank's own error is the one to report.

    Args:
        folder: The folder of error files.
        rank: The rank that fails.
        message: Its error.
        exit_code: The exit code of its process.
    """
    document = {"rank": rank, "time": time.time(), "message": message[:_MAX_MESSAGE_CHARS], "exit_code": exit_code}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(_error_file_path(folder, rank), json.dumps(document).encode())
    except OSError:
        return


def read_error_files(folder: Path) -> list[RankErrorRecord]:
    """Returns the errors in a folder, oldest first; invalid files are skipped."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    texts = [name.removeprefix("rank-").removesuffix(".json") for name in names]
    ranks = [int(text) for text in texts if text.isascii() and text.isdecimal() and len(text) < 10]
    records = [record for rank in ranks if (record := _read_error_file(folder, rank)) is not None]
    return sorted(records, key=lambda record: (record.time, record.rank))


def read_first_error(folder: Path) -> RankErrorRecord | None:
    """Returns the error of the rank that failed first; None if no rank has written one."""
    return next(iter(read_error_files(folder)), None)


def _error_file_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"


def _read_error_file(folder: Path, rank: int) -> RankErrorRecord | None:
    try:
        with open_regular_file(_error_file_path(folder, rank), _MAX_ERROR_FILE_BYTES) as file:
            document = json.loads(file.read(), parse_constant=_reject_constant)
    except (OSError, ValueError, RecursionError):
        return None
    return RankErrorRecord(**document) if _is_error_record(document) and document["rank"] == rank else None


def _is_error_record(document: Any) -> bool:
    kinds = {"rank": int, "time": float, "message": str, "exit_code": int}
    return (
        isinstance(document, dict)
        and document.keys() == kinds.keys()
        and all(type(document[name]) is kind for name, kind in kinds.items())
        # JSON reads 1e999 as infinity.
        and math.isfinite(document["time"])
    )


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
