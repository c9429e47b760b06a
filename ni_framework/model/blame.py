"""Whose code an error came from: told from its traceback afterwards, so that nothing is in the way while all is well."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from types import FrameType, TracebackType

from ni_framework.errors import NIError, PluginError, Problem
from ni_framework.options import KINDS
from ni_framework.registry.catalog import installed
from ni_framework.registry.discover import Entry


@contextmanager
def blamed() -> Iterator[None]:
    """Errors in a plugin's code leave the block, or the function that this decorates, as a `PluginError` that names it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if problem := blame(error):
            raise PluginError([problem]) from error
        raise


def blame(error: BaseException) -> Problem | None:
    """What went wrong in which component of which distribution, and what to do; None if no plugin's code took part.

    The innermost frame of a plugin counts: what it calls fails because of what it was given. Errors that speak for themselves
    stay as they are: the framework's own, want of memory, and files that cannot be read or written.
    """
    if isinstance(error, NIError | OSError) or too_large(error):
        return None
    found = [(frame, line) for frame, line in _frames(error.__traceback__) if _entry(frame)]
    if not found:
        return None
    frame, line = found[-1]
    entry = _entry(frame)
    assert entry is not None
    # A helper may serve several components: which of them, its callers tell.
    callers = (caller for outer, _ in reversed(found) if (caller := _entry(outer)) and _is_of(caller, outer))
    entry = next((caller for caller in callers if caller.distribution == entry.distribution), entry)
    place = f"{frame.f_code.co_name} ({os.path.basename(frame.f_code.co_filename)}, line {line})"
    said = " ".join(str(error).split())
    message = f"{entry.label} ({entry.value}) failed in {place}: {type(error).__name__}: {said}"
    hint = f"report it to {entry.distribution}, or upgrade it: pip install --upgrade {entry.distribution}"
    return Problem(message, hint=f"{hint}; NI_DEBUG=1 shows the traceback")


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _entry(frame: FrameType) -> Entry | None:
    """The component of a plugin that a frame belongs to, or another one of its package."""
    module = str(frame.f_globals.get("__name__", ""))
    package, catalog = module.partition(".")[0], installed()
    if package in {"ni_framework", *(entry.package for entry in catalog.entries if entry.is_own)}:
        return None
    known = [entry for entry in catalog.entries if entry.kind in KINDS and entry.package == package]
    entries = [entry for entry in known if not catalog.refusal(entry)]
    if not entries:
        return None

    def likeness(entry: Entry) -> tuple[bool, int]:
        """Its own class first, then the module nearest to the frame's, for several may share a package."""
        common = takewhile(lambda pair: pair[0] == pair[1], zip(entry.module, module, strict=False))
        return _is_of(entry, frame), len(list(common))

    return max(entries, key=likeness)


def _is_of(entry: Entry, frame: FrameType) -> bool:
    """Whether a frame is in a method of a component's own class."""
    return type(frame.f_locals.get("self")).__name__ == entry.value.rpartition(":")[2]


def too_large(error: BaseException) -> bool:
    """Whether torch or the machine has refused a tensor for its size; torch says so only in words."""
    words = ("allocate", "Storage size calculation overflowed", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )
