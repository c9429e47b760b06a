"""Selects installed components by name."""

from __future__ import annotations

from ni_framework.errors import Problem, RecipeError
from ni_framework.options import COMPONENT_KINDS
from ni_framework.registry import Entry, installed_catalog
from ni_framework.registry.discover import normalize_distribution
from ni_framework.registry.resolve import resolve_component
from ni_framework.testing.harness.case import Case


def select_entries(name: str | None) -> list[Entry]:
    """Returns the entries with a name ("swirl", "body/swirl") or of a distribution ("ni-swirl"); all entries for None.

    Raises `RecipeError` if nothing has this name.
    """
    entries = [entry for entry in installed_catalog().entries if entry.kind in COMPONENT_KINDS]
    if name is None:
        return entries
    matches = [
        entry
        for entry in entries
        if name in (entry.name, f"{entry.kind}/{entry.name}")
        or normalize_distribution(name) == normalize_distribution(entry.distribution)
    ]
    if not matches:
        raise RecipeError([Problem(f"there is no component or distribution `{name}`", hint="`ni ls` lists all")])
    return matches


def load_case(entry: Entry) -> Case:
    """Loads an installed component as a case. Raises `PluginError` if it cannot be loaded."""
    return Case(resolve_component(entry.kind, entry.name))
