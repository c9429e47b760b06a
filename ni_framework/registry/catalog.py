"""Names to entries: finds the one component that a recipe means, or says why there is none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache

from attrs import frozen

from ni_framework.errors import PluginError, Problem, RecipeError
from ni_framework.options import KINDS
from ni_framework.registry.allowlist import Allowed, allowed_here
from ni_framework.registry.discover import HOOKS, OWN, Entry, discover
from ni_framework.registry.file_plugins import entries_of_files, place_of

_NAME = re.compile(r"[a-z][a-z0-9_]*")
WORDS = {
    "null",
    "true",
    "false",
    "yes",
    "no",
    "on",
    "off",
    "y",
    "n",
}  # which YAML, of one version or another, reads as values


@frozen
class Remark:
    """What is to be said of an entry before it is imported: in a word or two, in a sentence, and what to do."""

    short: str
    message: str
    hint: str

    def error(self, entry: Entry) -> PluginError:
        """The refusal of an entry for this."""
        return PluginError([Problem(f"{entry.label} ({entry.value}) {self.message}", hint=self.hint)])


class Catalog:
    """All that is installed, by kind and name, and which of it may be used."""

    def __init__(self, entries: Sequence[Entry], allowed: Allowed | None = None) -> None:
        self.entries = tuple(entries)
        self._allowed = allowed or Allowed()

    def names(self, kind: str) -> list[str]:
        """The names of one kind that a recipe may try, sorted."""
        return sorted({entry.name for entry in self.entries if entry.kind == kind and not self.refusal(entry)})

    def kinds(self, name: str) -> list[str]:
        """The kinds of which something installed has this name, whether it may be used or not."""
        return [kind for kind in KINDS if any((entry.kind, entry.name) == (kind, name) for entry in self.entries)]

    @property
    def listeners(self) -> list[Entry]:
        """The listeners that may be used."""
        return [entry for entry in self.entries if entry.kind == HOOKS and not self.refusal(entry)]

    def refusal(self, entry: Entry) -> Remark | None:
        """Why an entry is never used, whatever a recipe names; None if it may be."""
        if entry.is_own:
            return None
        if not entry.is_one_file and (reason := self._allowed.refusal(entry.distribution)):
            return Remark("not allowed", *reason)
        if entry.kind == HOOKS:
            return None
        hint = f"ask {entry.distribution} for another name"
        if not _NAME.fullmatch(entry.name):
            return Remark("no name", "has no name of lower-case letters, digits and _, so no recipe can name it", hint)
        if entry.name in WORDS:
            return Remark("no name", "has a name that YAML reads as a value, so no recipe should name it", hint)
        if any(own.is_own and (own.kind, own.name) == (entry.kind, entry.name) for own in self.entries):
            message = f"is never used: {OWN} itself provides {entry.kind} `{entry.name}`, and its names are reserved"
            return Remark("reserved", message, hint)
        return None

    def remark(self, entry: Entry) -> str:
        """What a listing says of an entry, "" if nothing."""
        if refusal := self.refusal(entry):
            return refusal.short
        others = [other.source for other in self._usable(entry.kind, entry.name) if other != entry]
        return f"also provided by {' and '.join(others)}" if others and entry.kind != HOOKS else ""

    def find(self, kind: str, name: str) -> Entry:
        """The entry of a component.

        Raises `RecipeError` for a name that nobody provides, `PluginError` for one that only what is refused provides, or
        that two distributions provide: which of them would win must not depend on the order of installation.
        """
        found = self._usable(kind, name)
        if not found:
            for entry in self.entries:
                if (entry.kind, entry.name) == (kind, name) and (refusal := self.refusal(entry)):
                    raise refusal.error(entry)
            raise self._unknown(kind, name)
        if len(found) > 1:
            sources = " and ".join(entry.source for entry in found)
            message = f"{kind} `{name}` is provided more than once, by {sources}"
            raise PluginError([Problem(message, hint=_one_too_many(found))])
        return found[0]

    def _usable(self, kind: str, name: str) -> list[Entry]:
        return [entry for entry in self.entries if (entry.kind, entry.name) == (kind, name) and not self.refusal(entry)]

    def _unknown(self, kind: str, name: str) -> RecipeError:
        close = difflib.get_close_matches(name, self.names(kind), n=1)
        known = f"installed are: {', '.join(self.names(kind))}"
        hint = f"did you mean `{close[0]}`? {known}" if close else f"{known}; install the distribution that provides it"
        return RecipeError([Problem(f"there is no {kind} `{name}`", hint=hint)])


def _one_too_many(found: Sequence[Entry]) -> str:
    """What to do about several that provide one name: leave out a file that was given, or else a distribution."""
    if given := [place for entry in found if (place := place_of(entry))]:
        return " or ".join(f"leave out `--plugin {place}`" for place in dict.fromkeys(given))
    last = found[-1].distribution
    return f"uninstall one of them: pip uninstall {last}; or leave one out: NI_PLUGINS=-{last}"


@cache
def installed() -> Catalog:
    """What is installed in this environment, and what files were given; read once per process."""
    return Catalog(sorted([*discover(), *entries_of_files()]), allowed_here())
