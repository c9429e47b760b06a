"""Which installed components are meant by a name."""

from __future__ import annotations

from ni_framework.errors import Problem, RecipeError
from ni_framework.options import KINDS
from ni_framework.registry import Entry, installed
from ni_framework.registry.discover import normalised
from ni_framework.registry.resolve import component
from ni_framework.testing.harness.case import Case


def selected(name: str | None) -> list[Entry]:
    """The entries called `name` ("swirl", "body/swirl"), or of a distribution ("ni-swirl"); all without a name.

    Raises `RecipeError` if there is none.
    """
    entries = [entry for entry in installed().entries if entry.kind in KINDS]
    if name is None:
        return entries
    found = [
        entry
        for entry in entries
        if name in (entry.name, f"{entry.kind}/{entry.name}") or normalised(name) == normalised(entry.distribution)
    ]
    if not found:
        raise RecipeError([Problem(f"there is no component or distribution `{name}`", hint="`ni ls` lists all")])
    return found


def case_of(entry: Entry) -> Case:
    """An installed component as a case; raises `PluginError` if it cannot be loaded."""
    return Case(component(entry.kind, entry.name))
