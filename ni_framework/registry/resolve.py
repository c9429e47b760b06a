"""Entries to classes: imports the one component that is asked for, and keeps its faults from spreading."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import attrs

from ni_framework.contracts import API, BASES
from ni_framework.errors import PluginError, Problem
from ni_framework.registry.catalog import installed
from ni_framework.registry.discover import Entry


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
    """Imports what an entry names and checks it against the contract."""
    module, _, attribute = entry.value.partition(":")
    try:
        loaded: Any = import_module(module)
        for part in attribute.split("."):
            loaded = getattr(loaded, part)
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # a plugin may even call sys.exit while it is imported
        raise _broken(entry, f"cannot be imported: {type(fault).__name__}: {fault}") from fault
    if fault := contract_fault(entry.kind, loaded):
        raise _broken(entry, fault)
    return loaded


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


def _broken(entry: Entry, fault: str) -> PluginError:
    return PluginError(
        [
            Problem(
                f"{entry.kind} `{entry.name}` of {entry.source} ({entry.value}) {fault}",
                hint=f"upgrade or repair it: pip install --upgrade {entry.distribution}",
            )
        ]
    )
