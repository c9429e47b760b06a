"""Run events: gathers the plugins that listen, validated before anything runs."""

from __future__ import annotations

import pluggy

from ni_framework.contracts import PROJECT, RunEvents
from ni_framework.errors import PluginError, Problem


def run_events(*listeners: object) -> pluggy.PluginManager:
    """A plugin manager with the given listeners and every installed one (entry-point group `ni_framework.hooks`).

    Raises `PluginError` for a listener that cannot be loaded or implements a hook that does not exist or has other
    arguments.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(RunEvents)
    try:
        for listener in listeners:
            manager.register(listener)
        manager.load_setuptools_entrypoints(f"{PROJECT}.hooks")
        manager.check_pending()
    except KeyboardInterrupt:
        raise
    except BaseException as fault:
        hint = "a listener implements methods of contracts.RunEvents, by the same names and arguments; repair or uninstall it"
        raise PluginError([Problem(f"a plugin for run events is broken: {fault}", hint=hint)]) from fault
    return manager
