"""Imports what an entry names, without letting it print on stdout, end the process, or change what all share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any

from ni_framework.registry.discover import Entry
from ni_framework.registry.global_state import Shared

_faults: dict[
    str, str
] = {}  # of modules that were imported and refused: a second import would run nothing, and find nothing


class ImportFault(Exception):
    """What is wrong with an entry's module, as a phrase that follows the entry's name."""


def imported(entry: Entry) -> Any:
    """What an entry names.

    Raises `ImportFault` if it cannot be imported, or its import changes what is shared.
    """
    if entry.module in _faults:
        raise ImportFault(_faults[entry.module])
    try:
        return _named(entry) if entry.is_own else guarded(lambda: _named(entry))
    except ImportFault as fault:
        if fault.__cause__ is None:  # it was imported, and must not be used
            _faults[entry.module] = str(fault)
        raise


def guarded(load: Callable[[], Any]) -> Any:
    """What a stranger's code returns that is run for the first time.

    Raises `ImportFault` if it fails, or changes what is shared.
    """
    try:
        shared = Shared()
        try:
            with _quiet():
                loaded = load()
        finally:
            changed = shared.put_back()
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # a plugin may even call sys.exit while it is imported
        raise ImportFault(f"cannot be imported: {type(fault).__name__}: {fault}") from fault
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ImportFault(f"changes what all share when it is imported: {', '.join(changed[:5])}{more} (put back)")
    return loaded


def forget_faults() -> None:
    """Every module is judged anew."""
    _faults.clear()


def _named(entry: Entry) -> Any:
    if ":" not in entry.value:
        raise ValueError(f"the entry point is {entry.value!r}, and must be 'package.module:Class'")
    loaded: Any = import_module(entry.module)
    for part in entry.value.partition(":")[2].split("."):
        loaded = getattr(loaded, part)
    return loaded


@contextmanager
def _quiet() -> Iterator[None]:
    """What is printed goes to stderr, by whatever way: stdout is for results."""
    try:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except (OSError, ValueError, AttributeError):  # one of them is closed: then nothing can be printed there either
        kept = None
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            if sys.__stdout__ is not None:
                sys.__stdout__.flush()  # what it holds back would come out later
            os.dup2(kept, 1)
            os.close(kept)
