"""Why a process of several ended: each that fails writes it down before it goes, so that the first cause can be told."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, NoReturn

from attrs import frozen

from ni_framework.utils.atomic_files import open_plain, replace_file

_LONGEST_MESSAGE, _LARGEST_FILE = 100_000, 2_000_000  # characters; bytes, of which a character takes at most twelve


@frozen
class Note:
    """What one process wrote: its rank, when (seconds since the epoch), what it had to say, and its exit code."""

    rank: int
    time: float
    message: str
    exit_code: int


def write_note(folder: Path, rank: int, message: str, exit_code: int) -> None:
    """Writes down why a process ends; where that fails too, its error is still the one to tell, so nothing is raised."""
    document = {"rank": rank, "time": time.time(), "message": message[:_LONGEST_MESSAGE], "exit_code": exit_code}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(_place(folder, rank), json.dumps(document).encode())
    except OSError:
        return


def read_notes(folder: Path) -> list[Note]:
    """The notes in a folder, oldest first; what is none is left out."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    ranks = [name.removeprefix("rank-").removesuffix(".json") for name in names]
    known = [int(rank) for rank in ranks if rank.isascii() and rank.isdecimal() and len(rank) < 10]
    found = [_read(folder, rank) for rank in known]
    return sorted((note for note in found if note is not None), key=lambda note: (note.time, note.rank))


def first_note(folder: Path) -> Note | None:
    """What the process wrote that failed first; None if no process has written anything."""
    return next(iter(read_notes(folder)), None)


def _place(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"


def _read(folder: Path, rank: int) -> Note | None:
    try:
        with open_plain(_place(folder, rank), _LARGEST_FILE) as file:
            document = json.loads(file.read(), parse_constant=_refused)
    except (OSError, ValueError, RecursionError):
        return None
    return Note(**document) if _is_note(document) and document["rank"] == rank else None


def _is_note(document: Any) -> bool:
    kinds = {"rank": int, "time": float, "message": str, "exit_code": int}
    return (
        isinstance(document, dict)
        and document.keys() == kinds.keys()
        and all(type(document[name]) is kind for name, kind in kinds.items())
        and math.isfinite(document["time"])  # 1e999 is infinite
    )


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
