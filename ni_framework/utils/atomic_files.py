"""Files that are either as before or complete, whatever stops the process or the machine, and reading without surprises."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from glob import escape
from io import BufferedReader
from pathlib import Path

from ni_framework.errors import UsageError

_HIDDEN = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<part>new|old|gone)")


def digest(content: bytes) -> str:
    """The SHA-256 of some bytes, as hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def hidden(place: Path, part: str) -> Path:
    """A name beside a place that nobody else uses: "new" is being written, "old" makes room for it, "gone" is removed."""
    return place.with_name(f".{place.name}.{secrets.token_hex(4)}.{part}")


def unfinished(place: Path) -> list[Path]:
    """What is being written to take a place, or was when its process was stopped."""
    return sorted(place.parent.glob(f".{escape(place.name)}.????????.new"))


def said(error: OSError) -> str:
    """What the system says of a file, and which file it is."""
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"


def check_absent(path: Path, what: str) -> None:
    """Raises `UsageError` where a file or folder that is to be made by `-o` is there already."""
    if path.exists():
        raise UsageError(f"{path}: is there already; name another {what} with -o")


def write_file(path: Path, content: bytes) -> None:
    """Writes a file that must not exist yet, through to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file in one step: it is the old one or the new one, never a part."""
    beside = hidden(path, "new")
    try:
        write_file(beside, content)
        os.replace(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):  # the name of the file beside it tells nobody anything
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)


@contextmanager
def published(place: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place in one step when the block ends; nothing is left of it if the block fails."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside, before = hidden(place, "new"), hidden(place, "old")
    os.mkdir(beside)
    try:
        yield beside
        sync_folder(beside)
        # No system call exchanges two folders everywhere; `sweep` mends a stop between the two renames.
        if place.exists():
            os.rename(place, before)
        try:
            os.rename(beside, place)
        except BaseException:
            if before.exists():
                os.rename(before, place)
            raise
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(place.parent)
    shutil.rmtree(before, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder; its name is gone first, so that nobody ever sees a part of it."""
    away = hidden(folder, "gone")
    os.rename(folder, away)
    shutil.rmtree(away, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Clears what a process that was stopped in the middle of the functions above has left in a folder.

    Nobody else may be writing there.
    """
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if not (found := _HIDDEN.fullmatch(entry.name)):
            continue
        place = folder / found["name"]
        if found["part"] == "old" and not place.exists():
            os.rename(entry, place)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def open_plain(path: Path, largest: int) -> BufferedReader:
    """Opens a plain file of at most `largest` bytes.

    Raises `OSError` for anything else under that name: a link, a device, a pipe, a longer file.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "rb", opener=_open_itself))
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "is no plain file", str(path))
        if status.st_size > largest:
            raise OSError(None, f"is longer than {largest:,} bytes", str(path))
        stack.pop_all()
    return file


def _open_itself(path: str, flags: int) -> int:
    """Opens a name itself, not what it links to, and does not wait for the other end of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
