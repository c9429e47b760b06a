"""Run events: calls the listeners, and keeps an installed listener that fails from ending the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pluggy

from ni_framework.contracts import PROJECT_NAME, RunEvents
from ni_framework.errors import PluginError, Problem
from ni_framework.registry.catalog import installed_catalog
from ni_framework.registry.discover import Entry
from ni_framework.registry.guarded_import import PluginImportError, import_entry
from ni_framework.registry.resolve import broken_entry_error

_LISTENER_HINT = "a listener implements methods of contracts.RunEvents, with the same names and arguments"


def make_hook_runner(*listeners: object) -> HookRunner:
    """A runner that calls the given listeners and all installed ones (entry-point group `ni_framework.hooks`).

    Raises `PluginError` for a given listener that implements an unknown hook or one with other arguments. An installed
    listener with such a problem, or one that cannot be imported, is skipped and listed in `load_errors`: a package that is
    installed for other purposes must not stop the run.
    """
    try:
        runner = HookRunner(_build_manager(*listeners))
    except Exception as error:
        message = f"a listener to run events is broken: {_on_one_line(error)}"
        raise PluginError([Problem(message, hint=_LISTENER_HINT)]) from error
    for entry in installed_catalog().listeners:
        try:
            runner.installed_managers[entry] = load_listener(entry)
        except PluginError as error:
            runner.load_errors.append(f"skipped: {_plugin_error_text(error)}")
    return runner


def no_hooks() -> HookRunner:
    """A runner without listeners, for ranks other than rank 0: rank 0 calls the listeners of the run."""
    return HookRunner(_build_manager())


def load_listener(entry: Entry) -> pluggy.PluginManager:
    """A pluggy manager with one installed listener; raises `PluginError` if the listener is broken."""
    if rejection := installed_catalog().find_rejection(entry):
        raise rejection.to_error(entry)
    try:
        listener = import_entry(entry)
    except PluginImportError as fault:
        raise broken_entry_error(entry, str(fault)) from fault.__cause__
    if isinstance(listener, type):
        raise broken_entry_error(entry, "is a class; name an instance of it")
    try:
        manager = _build_manager(listener)
    except Exception as error:
        raise broken_entry_error(entry, f"is not a listener: {_on_one_line(error)}; {_LISTENER_HINT}") from error
    if not manager.get_hookcallers(listener):
        raise broken_entry_error(entry, f"implements no event; {_LISTENER_HINT}, marked with contracts.hookimpl")
    return manager


class HookRunner:
    """Calls listeners to run events: `runner.run_log(step=1, metrics={...})`.

    An installed listener that fails is not called again, and the other listeners get one warning about it.
    """

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self.explicit_manager = manager
        self.installed_managers: dict[Entry, pluggy.PluginManager] = {}
        # One message for each installed listener that could not be loaded.
        self.load_errors: list[str] = []
        self._last_step = 0

    def __getattr__(self, event: str) -> Callable[..., None]:
        if not event.startswith("run_"):
            raise AttributeError(event)

        def call_hook(**values: Any) -> None:
            getattr(self.explicit_manager.hook, event)(**values)
            self._last_step = values.get("step", self._last_step)
            for entry, manager in list(self.installed_managers.items()):
                # Each listener gets its own copies of mappings, so that it cannot change those of the others.
                copies = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
                try:
                    getattr(manager.hook, event)(**copies)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # Not even sys.exit in a listener may end the run.
                    del self.installed_managers[entry]
                    failure = f"failed at {event}: {type(error).__name__}: {_on_one_line(error)}"
                    text = _plugin_error_text(broken_entry_error(entry, failure))
                    self.run_warning(step=self._last_step, message=f"skipped from now on: {text}")

        return call_hook


def _build_manager(*listeners: object) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(RunEvents)
    for listener in listeners:
        manager.register(listener)
    manager.check_pending()
    return manager


def _on_one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())


def _plugin_error_text(error: PluginError) -> str:
    (problem,) = error.problems
    return f"{problem.message}; {problem.hint}"
