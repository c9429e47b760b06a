"""Fault notes: the first cause is found, and what is no note is nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ni_framework.distributed import error_files
from ni_framework.distributed.error_files import Note, first_note, read_notes, write_note


def test_first_by_time(tmp_path: Path) -> None:
    """The oldest is the first, whatever its rank; the folder comes by itself."""
    folder = tmp_path / "notes"
    assert first_note(folder) is None
    for rank, message in ((3, "the cause"), (0, "an echo"), (1, "another")):
        write_note(folder, rank, message, rank + 4)
    first = first_note(folder)
    assert first is not None
    assert (first.rank, first.message, first.exit_code) == (3, "the cause", 7)
    assert [note.rank for note in read_notes(folder)] == [3, 0, 1]
    assert sorted(path.name for path in folder.iterdir()) == ["rank-0.json", "rank-1.json", "rank-3.json"]


def test_long_message(tmp_path: Path) -> None:
    """Is cut, and read again, whatever its characters take in the file."""
    write_note(tmp_path, 0, "\U0001f4a5" * 200_000, 1)
    note = first_note(tmp_path)
    assert note is not None
    assert len(note.message) == 100_000


def test_nothing_is_raised(tmp_path: Path) -> None:
    """Where a note cannot be written, the error that it is about is still the one to tell."""
    (tmp_path / "file").write_text("")
    write_note(tmp_path / "file", 0, "lost", 1)
    assert first_note(tmp_path / "file") is None


GOOD = {"rank": 0, "time": 1.5, "message": "why", "exit_code": 1}
JUNK = {
    "empty": b"",
    "half": json.dumps(GOOD).encode()[:20],
    "no mapping": b"[1]",
    "deep": b"[" * 100_000,
    "not unicode": json.dumps(GOOD).encode().replace(b"why", b"\xff"),
    "too long": json.dumps(GOOD).encode() + b" " * 2_000_000,
    "NaN": json.dumps(GOOD | {"time": float("nan")}).encode(),
    "infinite": json.dumps(GOOD).encode().replace(b"1.5", b"1e999"),
    "a key more": json.dumps(GOOD | {"more": 1}).encode(),
    "a key less": b'{"rank": 0, "time": 1.5, "message": "why"}',
    "another kind": json.dumps(GOOD | {"exit_code": "1"}).encode(),
    "a boolean": json.dumps(GOOD | {"exit_code": True}).encode(),
    "another's rank": json.dumps(GOOD | {"rank": 1}).encode(),
}


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK.keys())
def test_junk(tmp_path: Path, content: bytes) -> None:
    """Is no note, and hides none."""
    (tmp_path / "rank-0.json").write_bytes(content)
    (tmp_path / "rank-x.json").write_bytes(json.dumps(GOOD).encode())
    assert first_note(tmp_path) is None
    (tmp_path / "rank-0.json").write_bytes(json.dumps(GOOD).encode())
    assert first_note(tmp_path) == Note(**GOOD)


def test_written_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sees a whole note or none."""
    seen = []
    write = error_files.replace_file

    def watched(path: Path, content: bytes) -> None:
        write(path, content)
        seen.append(path)

    monkeypatch.setattr(error_files, "replace_file", watched)
    write_note(tmp_path, 2, "why", 1)
    assert seen == [tmp_path / "rank-2.json"]
