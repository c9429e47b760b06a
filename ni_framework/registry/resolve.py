"""Entries to classes: imports the one component that is asked for, and keeps its faults from spreading."""

from __future__ import annotations

from functools import cache
from typing import Any

import attrs

from ni_framework.contracts import API, BASES
from ni_framework.errors import PluginError, Problem
from ni_framework.registry.catalog import installed
from ni_framework.registry.discover import OWN, Entry
from ni_framework.registry.guarded_import import ImportFault, forget_faults, imported


@cache
def component(kind: str, name: str) -> Any:
    """The class of a component.

    Raises `RecipeError` if nobody provides it, `PluginError` if it is doubled, cannot be imported, or is no component of
    this kind and API.
    """
    return load(installed().find(kind, name))


def config_of(kind: str, name: str) -> type:
    """The `Config` of a component: what the recipe loader needs to check its options."""
    return component(kind, name).Config


def load(entry: Entry) -> Any:
    """Imports what an entry names and checks it against the contract; raises `PluginError`."""
    if refusal := installed().refusal(entry):
        raise refusal.error(entry)
    try:
        loaded = imported(entry)
    except ImportFault as fault:
        raise broken(entry, str(fault)) from fault.__cause__
    if fault := contract_fault(entry.kind, loaded):
        api = getattr(loaded, "api", None)
        newer = isinstance(api, int) and api > API
        raise broken(entry, fault, f"upgrade ni_framework: pip install --upgrade {OWN}" if newer else None)
    return loaded


def forget() -> None:
    """The environment is read again, and every plugin judged anew; for what changes the environment within a process."""
    installed.cache_clear()
    component.cache_clear()
    forget_faults()


def contract_fault(kind: str, loaded: object) -> str | None:
    """What keeps an object from being a component of this kind, or None."""
    base = BASES[kind]
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        return f"is no subclass of contracts.{base.__name__}"
    api = getattr(loaded, "api", None)
    if api != API:
        return f"is written for plugin API {api}, this ni_framework offers {API}"
    config: Any = getattr(loaded, "Config", None)
    if not (isinstance(config, type) and attrs.has(config) and config.__setattr__ is not object.__setattr__):
        return "has no frozen Config; decorate it with options.config"
    if abstract := sorted(getattr(loaded, "__abstractmethods__", ())):
        return f"does not define {', '.join(abstract)}"
    return None


def broken(entry: Entry, fault: str, hint: str | None = None) -> PluginError:
    """The error for an entry with a fault, which is a phrase that follows its name."""
    upgrade = (
        "mend the file" if entry.is_one_file else f"upgrade or repair it: pip install --upgrade {entry.distribution}"
    )
    hint = hint or upgrade
    return PluginError([Problem(f"{entry.label} ({entry.value}) {fault}", hint=hint)])
