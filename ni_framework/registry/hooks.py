"""Run events: who listens, and how a listener that fails is kept from ending a run that is not its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pluggy

from ni_framework.contracts import PROJECT, RunEvents
from ni_framework.errors import PluginError, Problem
from ni_framework.registry.catalog import installed
from ni_framework.registry.discover import Entry
from ni_framework.registry.guarded_import import ImportFault, imported
from ni_framework.registry.resolve import broken

_HINT = "a listener implements methods of contracts.RunEvents, by the same names and arguments"


def run_events(*listeners: object) -> Telling:
    """Tells run events to the given listeners, and to every installed one (entry-point group `ni_framework.hooks`).

    Raises `PluginError` for a given listener that implements a hook that does not exist or has other arguments. An installed
    one with such a fault, or that cannot be imported, is left out, and `faults` says so: the run is not its own.
    """
    try:
        telling = Telling(_manager(*listeners))
    except Exception as fault:
        raise PluginError([Problem(f"a listener to run events is broken: {_line(fault)}", hint=_HINT)]) from fault
    for entry in installed().listeners:
        try:
            telling.installed[entry] = listener(entry)
        except PluginError as error:
            telling.faults.append(f"left out: {_told(error)}")
    return telling


def nobody() -> Telling:
    """Tells run events to nobody, not even to installed listeners: another process of the same run tells them."""
    return Telling(_manager())


def listener(entry: Entry) -> pluggy.PluginManager:
    """An installed listener, with a manager of its own; raises `PluginError` if it cannot listen."""
    if refusal := installed().refusal(entry):
        raise refusal.error(entry)
    try:
        found = imported(entry)
    except ImportFault as fault:
        raise broken(entry, str(fault)) from fault.__cause__
    if isinstance(found, type):
        raise broken(entry, "is a class; name an object made of it")
    try:
        manager = _manager(found)
    except Exception as fault:
        raise broken(entry, f"cannot listen: {_line(fault)}; {_HINT}") from fault
    if not manager.get_hookcallers(found):
        raise broken(entry, f"implements no event; {_HINT}, marked with contracts.hookimpl")
    return manager


class Telling:
    """What the trainer calls to tell an event: `telling.run_log(step=1, metrics={...})`.

    An installed listener that fails is told nothing more, and everybody else is told that, once.
    """

    def __init__(self, given: pluggy.PluginManager) -> None:
        self.given = given
        self.installed: dict[Entry, pluggy.PluginManager] = {}
        self.faults: list[str] = []  # of installed listeners that were left out from the first
        self._step = 0

    def __getattr__(self, event: str) -> Callable[..., None]:
        if not event.startswith("run_"):
            raise AttributeError(event)

        def tell(**values: Any) -> None:
            getattr(self.given.hook, event)(**values)
            self._step = values.get("step", self._step)
            for entry, manager in list(self.installed.items()):
                # Mappings are copies: what a listener does to its own is nobody else's affair.
                own = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
                try:
                    getattr(manager.hook, event)(**own)
                except KeyboardInterrupt:
                    raise
                except BaseException as fault:  # sys.exit is no reason to end the run, either
                    del self.installed[entry]
                    error = broken(entry, f"failed at {event}: {type(fault).__name__}: {_line(fault)}")
                    self.run_warning(step=self._step, message=f"left out from now on: {_told(error)}")

        return tell


def _manager(*listeners: object) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(RunEvents)
    for given in listeners:
        manager.register(given)
    manager.check_pending()
    return manager


def _line(fault: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(fault).split())


def _told(error: PluginError) -> str:
    (problem,) = error.problems
    return f"{problem.message}; {problem.hint}"
