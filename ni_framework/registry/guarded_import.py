"""Imports plugins so that they cannot print on stdout, end the process, or change the global state."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any

from ni_framework.registry.discover import Entry
from ni_framework.registry.global_state import GlobalState

# Modules that were imported and rejected, with the reason. A second import would not run their code and find no problem.
_rejected_modules: dict[str, str] = {}


class PluginImportError(Exception):
    """A problem with the module of an entry, as a phrase that follows the entry's name."""


def import_entry(entry: Entry) -> Any:
    """The object that an entry names.

    Raises `PluginImportError` if it cannot be imported, or if its import changes the global state.
    """
    if entry.module in _rejected_modules:
        raise PluginImportError(_rejected_modules[entry.module])
    try:
        return _import_attribute(entry) if entry.is_builtin else run_guarded(lambda: _import_attribute(entry))
    except PluginImportError as fault:
        if fault.__cause__ is None:  # It was imported and changed the global state.
            _rejected_modules[entry.module] = str(fault)
        raise


def run_guarded(load: Callable[[], Any]) -> Any:
    """Runs third-party code for the first time and returns its result.

    Raises `PluginImportError` if the code fails or changes the global state.
    """
    try:
        global_state = GlobalState()
        try:
            with _stdout_to_stderr():
                loaded = load()
        finally:
            changed = global_state.restore()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # A plugin may even call sys.exit while it is imported.
        raise PluginImportError(f"cannot be imported: {type(error).__name__}: {error}") from error
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise PluginImportError(f"changes global state when it is imported: {', '.join(changed[:5])}{more} (restored)")
    return loaded


def clear_import_faults() -> None:
    """Forgets the rejected modules, so that every module is checked again."""
    _rejected_modules.clear()


def _import_attribute(entry: Entry) -> Any:
    if ":" not in entry.value:
        raise ValueError(f"the entry point is {entry.value!r}, and must be 'package.module:Class'")
    loaded: Any = import_module(entry.module)
    for name in entry.value.partition(":")[2].split("."):
        loaded = getattr(loaded, name)
    return loaded


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirects everything that is printed to stderr, also by subprocesses: stdout is for results."""
    try:
        sys.stdout.flush()
        saved_fd = os.dup(1)
        os.dup2(2, 1)
    except (OSError, ValueError, AttributeError):  # If stdout or stderr is closed, nothing can be printed there either.
        saved_fd = None
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if saved_fd is not None:
            if sys.__stdout__ is not None:
                sys.__stdout__.flush()  # Buffered output would otherwise be written to stdout later.
            os.dup2(saved_fd, 1)
            os.close(saved_fd)
