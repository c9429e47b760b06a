"""Error files: the first error is found, and invalid files are ignored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ni_framework.distributed import error_files
from ni_framework.distributed.error_files import RankErrorRecord, read_error_files, read_first_error, write_error_file


def test_errors_are_sorted_by_time(tmp_path: Path) -> None:
    """The oldest is the first, whatever its rank; the folder is created when it is needed."""
    folder = tmp_path / "errors"
    assert read_first_error(folder) is None
    for rank, message in ((3, "the cause"), (0, "a consequence"), (1, "another")):
        write_error_file(folder, rank, message, rank + 4)
    first = read_first_error(folder)
    assert first is not None
    assert first.rank == 3
    assert first.message == "the cause"
    assert first.exit_code == 7
    assert [error.rank for error in read_error_files(folder)] == [3, 0, 1]
    assert sorted(path.name for path in folder.iterdir()) == ["rank-0.json", "rank-1.json", "rank-3.json"]


def test_long_message_is_truncated(tmp_path: Path) -> None:
    """It can still be read, whatever number of bytes its characters take in the file."""
    write_error_file(tmp_path, 0, "\U0001f4a5" * 200_000, 1)
    error = read_first_error(tmp_path)
    assert error is not None
    assert len(error.message) == 100_000


def test_failed_writing_raises_nothing(tmp_path: Path) -> None:
    """If an error file cannot be written, the error that it is about is still the one to report."""
    (tmp_path / "file").write_text("")
    write_error_file(tmp_path / "file", 0, "lost", 1)
    assert read_first_error(tmp_path / "file") is None


VALID_ERROR = {"rank": 0, "time": 1.5, "message": "why", "exit_code": 1}
INVALID_ERRORS = {
    "empty": b"",
    "half": json.dumps(VALID_ERROR).encode()[:20],
    "no mapping": b"[1]",
    "deep": b"[" * 100_000,
    "not unicode": json.dumps(VALID_ERROR).encode().replace(b"why", b"\xff"),
    "too long": json.dumps(VALID_ERROR).encode() + b" " * 2_000_000,
    "NaN": json.dumps(VALID_ERROR | {"time": float("nan")}).encode(),
    "infinite": json.dumps(VALID_ERROR).encode().replace(b"1.5", b"1e999"),
    "a key more": json.dumps(VALID_ERROR | {"more": 1}).encode(),
    "a key less": b'{"rank": 0, "time": 1.5, "message": "why"}',
    "another kind": json.dumps(VALID_ERROR | {"exit_code": "1"}).encode(),
    "a boolean": json.dumps(VALID_ERROR | {"exit_code": True}).encode(),
    "another's rank": json.dumps(VALID_ERROR | {"rank": 1}).encode(),
}


@pytest.mark.parametrize("content", INVALID_ERRORS.values(), ids=INVALID_ERRORS.keys())
def test_invalid_error_files_are_ignored(tmp_path: Path, content: bytes) -> None:
    """An invalid file is ignored, and does not hide a valid one."""
    (tmp_path / "rank-0.json").write_bytes(content)
    (tmp_path / "rank-x.json").write_bytes(json.dumps(VALID_ERROR).encode())
    assert read_first_error(tmp_path) is None
    (tmp_path / "rank-0.json").write_bytes(json.dumps(VALID_ERROR).encode())
    assert read_first_error(tmp_path) == RankErrorRecord(**VALID_ERROR)


def test_error_file_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sees a complete file or none."""
    written = []
    write = error_files.atomic_write

    def record(path: Path, content: bytes) -> None:
        write(path, content)
        written.append(path)

    monkeypatch.setattr(error_files, "atomic_write", record)
    write_error_file(tmp_path, 2, "why", 1)
    assert written == [tmp_path / "rank-2.json"]
