"""Names to entries: finds the one component that a recipe means, or says why there is none."""

from __future__ import annotations

import difflib
from functools import cache

from ni_framework.errors import PluginError, Problem, RecipeError
from ni_framework.registry.discover import Entry, discover


class Catalog:
    """All installed components by kind and name."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = tuple(entries)

    def names(self, kind: str) -> list[str]:
        """The names of one kind, sorted."""
        return sorted({entry.name for entry in self.entries if entry.kind == kind})

    def find(self, kind: str, name: str) -> Entry:
        """The entry of a component.

        Raises `RecipeError` for a name that nobody provides and `PluginError` for one that two distributions provide: which
        of them would win must not depend on the order of installation.
        """
        found = [entry for entry in self.entries if entry.kind == kind and entry.name == name]
        if not found:
            close = difflib.get_close_matches(name, self.names(kind), n=1)
            known = f"installed are: {', '.join(self.names(kind))}"
            hint = (
                f"did you mean `{close[0]}`? {known}"
                if close
                else f"{known}; install the distribution that provides it"
            )
            raise RecipeError([Problem(f"there is no {kind} `{name}`", hint=hint)])
        if len(found) > 1:
            sources = " and ".join(entry.source for entry in found)
            hint = f"uninstall one of them: pip uninstall {found[-1].distribution}"
            raise PluginError([Problem(f"{kind} `{name}` is provided more than once, by {sources}", hint=hint)])
        return found[0]


@cache
def installed() -> Catalog:
    """What is installed in this environment, read once per process."""
    return Catalog(discover())
