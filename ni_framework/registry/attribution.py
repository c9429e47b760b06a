"""Finds the plugin whose code raised an error. It reads the traceback afterwards, so that code without errors pays nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from types import FrameType, TracebackType

from ni_framework.errors import NIError, PluginError, Problem
from ni_framework.options import COMPONENT_KINDS
from ni_framework.registry.catalog import installed_catalog
from ni_framework.registry.discover import Entry
from ni_framework.utils.oom import is_out_of_memory


@contextmanager
def attribute_errors() -> Iterator[None]:
    """Turns errors in a plugin's code, in a block or in a decorated function, into a `PluginError` that names the plugin."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if problem := attribute_error(error):
            raise PluginError([problem]) from error
        raise


def attribute_error(error: BaseException) -> Problem | None:
    """What failed in which component of which distribution, and what to do; None if no plugin's code took part.

    The innermost frame of a plugin decides: what it calls fails because of the arguments that the plugin passes. Errors that
    explain themselves are not attributed: the framework's own, out of memory, and files that cannot be read or written.
    """
    if isinstance(error, NIError | OSError) or is_out_of_memory(error):
        return None
    plugin_frames = [
        (frame, line, entries)
        for frame, line in _iter_frames(error.__traceback__)
        if (entries := _entries_of_frame(frame))
    ]
    if not plugin_frames:
        return None
    frame, line, entries = plugin_frames[-1]
    first = entries[0]
    # Several components may share a helper; the calling method shows which of them used it.
    callers = (entry for caller, _, known in reversed(plugin_frames) for entry in known if _is_method_of(entry, caller))
    owner = next((entry for entry in callers if entry.distribution == first.distribution), None)
    if owner or len(entries) == 1:
        label = f"{(owner or first).label} ({(owner or first).value})"
    else:
        label = f"{' or '.join(f'{entry.kind} `{entry.name}`' for entry in entries)} of {first.source} ({first.module})"
    place = f"{frame.f_code.co_name} ({os.path.basename(frame.f_code.co_filename)}, line {line})"
    message = f"{label} failed in {place}: {type(error).__name__}: {' '.join(str(error).split())}"
    upgrade = f"report it to {first.distribution}, or upgrade it: pip install --upgrade {first.distribution}"
    hint = "fix the file" if first.is_file_plugin else upgrade
    return Problem(message, hint=f"{hint}; NI_DEBUG=1 shows the traceback")


def _iter_frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _entries_of_frame(frame: FrameType) -> list[Entry]:
    """The components of a plugin that a frame may belong to: those whose module path is closest to the frame's."""
    module = str(frame.f_globals.get("__name__", ""))
    package, catalog = module.partition(".")[0], installed_catalog()
    if package in {"ni_framework", *(entry.package for entry in catalog.entries if entry.is_builtin)}:
        return []
    in_package = [entry for entry in catalog.entries if entry.kind in COMPONENT_KINDS and entry.package == package]
    usable = [entry for entry in in_package if not catalog.find_rejection(entry)]
    longest = max((_common_prefix_length(entry.module, module) for entry in usable), default=0)
    return [entry for entry in usable if _common_prefix_length(entry.module, module) == longest]


def _common_prefix_length(one: str, other: str) -> int:
    """The number of leading names that two dotted paths have in common."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _is_method_of(entry: Entry, frame: FrameType) -> bool:
    """Whether a frame belongs to a method of the component's class."""
    return type(frame.f_locals.get("self")).__name__ == entry.value.rpartition(":")[2]
