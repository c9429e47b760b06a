"""Atomic writing, after which a file is either unchanged or complete whatever stops the process, and safe reading."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from glob import escape
from io import BufferedReader
from pathlib import Path

from ni_framework.errors import UsageError

_STAGING_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<role>new|old|gone)")


def sha256_hex(content: bytes) -> str:
    """Returns the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def staging_path(path: Path, role: str) -> Path:
    """Returns a unique hidden name in the folder of `path`.

    The role is the reason: "new" is being written, "old" is moved away to make room for it, "gone" is being removed.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{role}")


def list_staging_paths(path: Path) -> list[Path]:
    """Returns what is being written to become `path`, or was when its process was interrupted."""
    return sorted(path.parent.glob(f".{escape(path.name)}.????????.new"))


def format_os_error(error: OSError) -> str:
    """Returns the message of the operating system, with the name of the file."""
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"


def check_absent(path: Path, what: str) -> None:
    """Raises `UsageError` if the file or folder that `-o` names exists already; `what` is "file" or "folder"."""
    if path.exists():
        raise UsageError(f"{path}: exists already; name another {what} with -o")


def write_new(path: Path, chunks: Iterable[bytes | bytearray | memoryview]) -> tuple[int, str]:
    """Writes a file that must not exist yet, through to the disk.

    Args:
        path: The file.
        chunks: Its content, of which only one chunk at a time has to be in memory.

    Returns:
        The size in bytes and the hexadecimal SHA-256 of the content.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    size, digest = 0, hashlib.sha256()
    try:
        for chunk in chunks:
            size += len(chunk)
            digest.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return size, digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable (fsync)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path, content: bytes) -> None:
    """Writes a file atomically: readers see the old content or the new one, never a part."""
    staging = staging_path(path, "new")
    try:
        write_new(staging, [content])
        os.replace(staging, path)
    except BaseException as error:
        staging.unlink(missing_ok=True)
        # The message names the file itself, because nobody has heard of its staging path.
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields a staging folder, which is renamed to `path` when the block ends, and is removed if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging, previous = staging_path(path, "new"), staging_path(path, "old")
    os.mkdir(staging)
    try:
        yield staging
        sync_folder(staging)
        # No portable system call exchanges two folders; `remove_stale` repairs an interruption between the two renames.
        if path.exists():
            os.rename(path, previous)
        try:
            os.rename(staging, path)
        except BaseException:
            if previous.exists():
                os.rename(previous, path)
            raise
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder; it is renamed first, so that nobody ever sees a part of it."""
    away = staging_path(folder, "gone")
    os.rename(folder, away)
    shutil.rmtree(away, ignore_errors=True)


def remove_stale(folder: Path) -> None:
    """Removes what an interrupted process has left in a folder, and restores a folder that was moved away.

    No other process may write there at the same time.
    """
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if not (match := _STAGING_NAME.fullmatch(entry.name)):
            continue
        path = folder / match["name"]
        if match["role"] == "old" and not path.exists():
            os.rename(entry, path)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def open_regular_file(path: Path, max_bytes: int) -> BufferedReader:
    """Opens a regular file of at most `max_bytes` bytes.

    Raises `OSError` for anything else under that name: a link, a device, a pipe, a longer file.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "rb", opener=_open_no_follow))
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "is not a regular file", str(path))
        if status.st_size > max_bytes:
            raise OSError(None, f"is longer than {max_bytes:,} bytes", str(path))
        stack.pop_all()
    return file


def _open_no_follow(path: str, flags: int) -> int:
    """Opens a file without following a link, and without waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
