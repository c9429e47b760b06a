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
from ni_framework.utils.oom import too_large


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
    found = [(frame, line, entries) for frame, line in _frames(error.__traceback__) if (entries := _entries(frame))]
    if not found:
        return None
    frame, line, entries = found[-1]
    first = entries[0]
    # A helper may serve several components: which of them, its callers tell.
    callers = (entry for caller, _, outer in reversed(found) for entry in outer if _is_of(entry, caller))
    owner = next((entry for entry in callers if entry.distribution == first.distribution), None)
    if owner or len(entries) == 1:
        label = f"{(owner or first).label} ({(owner or first).value})"
    else:
        label = f"{' or '.join(f'{entry.kind} `{entry.name}`' for entry in entries)} of {first.source} ({first.module})"
    place = f"{frame.f_code.co_name} ({os.path.basename(frame.f_code.co_filename)}, line {line})"
    message = f"{label} failed in {place}: {type(error).__name__}: {' '.join(str(error).split())}"
    upgrade = f"report it to {first.distribution}, or upgrade it: pip install --upgrade {first.distribution}"
    hint = "mend the file" if first.is_one_file else upgrade
    return Problem(message, hint=f"{hint}; NI_DEBUG=1 shows the traceback")


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _entries(frame: FrameType) -> list[Entry]:
    """The components of a plugin that a frame may belong to: those whose module is nearest to the frame's."""
    module = str(frame.f_globals.get("__name__", ""))
    package, catalog = module.partition(".")[0], installed()
    if package in {"ni_framework", *(entry.package for entry in catalog.entries if entry.is_own)}:
        return []
    known = [entry for entry in catalog.entries if entry.kind in KINDS and entry.package == package]
    usable = [entry for entry in known if not catalog.refusal(entry)]
    nearest = max((_common(entry.module, module) for entry in usable), default=0)
    return [entry for entry in usable if _common(entry.module, module) == nearest]


def _common(one: str, other: str) -> int:
    """How many names two dotted paths begin with together."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _is_of(entry: Entry, frame: FrameType) -> bool:
    """Whether a frame is in a method of a component's own class."""
    return type(frame.f_locals.get("self")).__name__ == entry.value.rpartition(":")[2]
