"""Which files are opened and which folders are listed, by whatever way Python code has to do it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType

EVENTS = {"open": "opens", "os.listdir": "lists", "os.scandir": "lists"}
MACHINERY = ("importlib", "linecache", "ni_framework/registry")  # whose files are source code, not data
_recording: dict[int, list[str]] = {}  # by thread


@contextmanager
def recorded(touched: list[str]) -> Iterator[None]:
    """Appends what this thread opens ("opens data.bin") and lists, but for what the import of modules does."""
    _listen()
    thread = threading.get_ident()
    _recording[thread] = touched
    try:
        yield
    finally:
        del _recording[thread]


@cache
def _listen() -> None:
    """Once in a process: an audit hook cannot be taken away again."""
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if not _recording or event not in EVENTS or (touched := _recording.get(threading.get_ident())) is None:
        return
    path = arguments[0]
    path = path.decode(errors="replace") if isinstance(path, bytes) else "." if path is None else path
    if isinstance(path, int) or str(path).startswith("/dev/") or _by_machinery(sys._getframe(1)):
        return
    touched.append(f"{EVENTS[event]} {path}")


def _by_machinery(frame: FrameType | None) -> bool:
    while frame is not None:
        if any(part in frame.f_code.co_filename.replace("\\", "/") for part in MACHINERY):
            return True
        frame = frame.f_back
    return False
