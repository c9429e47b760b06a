"""Records which files are opened and which folders are listed, by any means that Python code has."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType

AUDIT_EVENTS = {"open": "opens", "os.listdir": "lists", "os.scandir": "lists"}
# These modules open source code, not data.
IMPORT_MACHINERY = ("importlib", "linecache", "ni_framework/registry")
# The recorded accesses, by thread identifier.
_touched_by_thread: dict[int, list[str]] = {}


@contextmanager
def record_file_access(touched: list[str]) -> Iterator[None]:
    """Appends what this thread opens ("opens data.bin") and lists to `touched`, except while it imports modules."""
    _install_audit_hook()
    thread = threading.get_ident()
    _touched_by_thread[thread] = touched
    try:
        yield
    finally:
        del _touched_by_thread[thread]


@cache
def _install_audit_hook() -> None:
    """Installs the audit hook, once in a process, because audit hooks cannot be removed."""
    sys.addaudithook(_on_audit_event)


def _on_audit_event(event: str, arguments: tuple[object, ...]) -> None:
    if (
        not _touched_by_thread
        or event not in AUDIT_EVENTS
        or (touched := _touched_by_thread.get(threading.get_ident())) is None
    ):
        return
    path = arguments[0]
    path = path.decode(errors="replace") if isinstance(path, bytes) else "." if path is None else path
    if isinstance(path, int) or str(path).startswith("/dev/") or _is_import_machinery(sys._getframe(1)):
        return
    touched.append(f"{AUDIT_EVENTS[event]} {path}")


def _is_import_machinery(frame: FrameType | None) -> bool:
    while frame is not None:
        if any(part in frame.f_code.co_filename.replace("\\", "/") for part in IMPORT_MACHINERY):
            return True
        frame = frame.f_back
    return False
