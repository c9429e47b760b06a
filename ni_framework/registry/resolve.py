"""Loads the class of an entry: imports the requested component, and reports its problems as errors of the plugin."""

from __future__ import annotations

from functools import cache
from typing import Any

import attrs

from ni_framework.contracts import API_VERSION, COMPONENT_BASES
from ni_framework.errors import PluginError, Problem
from ni_framework.registry.catalog import installed_catalog
from ni_framework.registry.discover import FRAMEWORK_DISTRIBUTION, Entry
from ni_framework.registry.guarded_import import PluginImportError, clear_import_faults, import_entry


@cache
def resolve_component(kind: str, name: str) -> Any:
    """The class of a component.

    Raises `RecipeError` if no distribution provides it, `PluginError` if several do, if it cannot be imported, or if it is not
    a component of this kind and of this plugin API.
    """
    return load_entry(installed_catalog().find(kind, name))


def resolve_config(kind: str, name: str) -> type:
    """The `Config` of a component, with which the recipe loader checks its options."""
    return resolve_component(kind, name).Config


def load_entry(entry: Entry) -> Any:
    """Imports what an entry names and checks it against the contract; raises `PluginError`."""
    if rejection := installed_catalog().find_rejection(entry):
        raise rejection.to_error(entry)
    try:
        loaded = import_entry(entry)
    except PluginImportError as fault:
        raise broken_entry_error(entry, str(fault)) from fault.__cause__
    if violation := find_contract_violation(entry.kind, loaded):
        api = getattr(loaded, "api", None)
        needs_newer_framework = isinstance(api, int) and api > API_VERSION
        upgrade = f"upgrade ni_framework: pip install --upgrade {FRAMEWORK_DISTRIBUTION}"
        raise broken_entry_error(entry, violation, upgrade if needs_newer_framework else None)
    return loaded


def reset_registry() -> None:
    """Forgets everything that was read, so that the environment and all plugins are read again in this process."""
    installed_catalog.cache_clear()
    resolve_component.cache_clear()
    clear_import_faults()


def find_contract_violation(kind: str, loaded: object) -> str | None:
    """Why an object is not a component of this kind; None if it is one."""
    base = COMPONENT_BASES[kind]
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        return f"is not a subclass of contracts.{base.__name__}"
    api = getattr(loaded, "api", None)
    if api != API_VERSION:
        changes = f'; the changes are listed in CHANGELOG.md, section "Plugin API {API_VERSION}"'
        is_older = isinstance(api, int) and api < API_VERSION
        return f"is written for plugin API {api}, this ni_framework has {API_VERSION}{changes if is_older else ''}"
    config: Any = getattr(loaded, "Config", None)
    if not (isinstance(config, type) and attrs.has(config) and config.__setattr__ is not object.__setattr__):
        return "has no frozen Config; decorate it with options.config"
    if abstract := sorted(getattr(loaded, "__abstractmethods__", ())):
        return f"does not define {', '.join(abstract)}"
    return None


def broken_entry_error(entry: Entry, fault: str, hint: str | None = None) -> PluginError:
    """The error for a broken entry.

    Args:
        entry: The entry.
        fault: What is wrong, as a phrase that follows the entry's name.
        hint: What to do; by default to fix the file or to upgrade the distribution.
    """
    if hint is None:
        upgrade = f"upgrade or repair it: pip install --upgrade {entry.distribution}"
        hint = "fix the file" if entry.is_file_plugin else upgrade
    return PluginError([Problem(f"{entry.label} ({entry.value}) {fault}", hint=hint)])
