"""Finds the one entry that a name in a recipe means, or the reason why it cannot be used."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache

from attrs import frozen

from ni_framework.errors import PluginError, Problem, RecipeError
from ni_framework.options import COMPONENT_KINDS, COMPONENT_NAME
from ni_framework.registry.allowlist import Allowlist, allowlist_from_env
from ni_framework.registry.discover import FRAMEWORK_DISTRIBUTION, HOOKS, Entry, discover
from ni_framework.registry.file_plugins import file_plugin_entries, find_plugin_file

YAML_RESERVED_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
"""Words that some version of YAML reads as a value and not as text."""


@frozen
class Rejection:
    """Why an entry is not used, known before it is imported: as two words, as a phrase after its name, and what to do."""

    short: str
    message: str
    hint: str

    def to_error(self, entry: Entry) -> PluginError:
        """The error for using a rejected entry."""
        return PluginError([Problem(f"{entry.label} ({entry.value}) {self.message}", hint=self.hint)])


class Catalog:
    """All installed entries, by kind and name, and which of them may be used."""

    def __init__(self, entries: Sequence[Entry], allowlist: Allowlist | None = None) -> None:
        self.entries = tuple(entries)
        self._allowlist = allowlist or Allowlist()

    def names(self, kind: str) -> list[str]:
        """The names of one kind that a recipe may use, sorted."""
        return sorted({entry.name for entry in self.entries if entry.kind == kind and not self.find_rejection(entry)})

    def kinds(self, name: str) -> list[str]:
        """The kinds that have an installed entry with this name, whether it may be used or not."""
        kinds = {entry.kind for entry in self.entries if entry.name == name}
        return [kind for kind in COMPONENT_KINDS if kind in kinds]

    @property
    def listeners(self) -> list[Entry]:
        """The entries of listeners to run events that may be used."""
        return [entry for entry in self.entries if entry.kind == HOOKS and not self.find_rejection(entry)]

    def find_rejection(self, entry: Entry) -> Rejection | None:
        """Why an entry is never used, whatever a recipe names; None if it may be used."""
        if entry.is_builtin:
            return None
        if not entry.is_file_plugin and (reason := self._allowlist.rejection_reason(entry.distribution)):
            return Rejection("not allowed", *reason)
        if entry.kind == HOOKS:
            return None
        hint = f"ask the authors of {entry.distribution} to rename it"
        if not COMPONENT_NAME.fullmatch(entry.name):
            message = "has a name with other characters than lower-case letters, digits and _, so no recipe can name it"
            return Rejection("invalid name", message, hint)
        if entry.name in YAML_RESERVED_WORDS:
            return Rejection("invalid name", "has a name that YAML reads as a value, so no recipe should name it", hint)
        if any(own.is_builtin and (own.kind, own.name) == (entry.kind, entry.name) for own in self.entries):
            component = f"{entry.kind} `{entry.name}`"
            message = f"is never used: {FRAMEWORK_DISTRIBUTION} itself provides {component}, and its names are reserved"
            return Rejection("reserved", message, hint)
        return None

    def remark(self, entry: Entry) -> str:
        """The remark on an entry in a listing, or ""."""
        if rejection := self.find_rejection(entry):
            return rejection.short
        others = [other.source for other in self._usable_entries(entry.kind, entry.name) if other != entry]
        return f"also provided by {' and '.join(others)}" if others and entry.kind != HOOKS else ""

    def find(self, kind: str, name: str) -> Entry:
        """The entry of a component.

        Raises:
            RecipeError: if no installed distribution provides the name.
            PluginError: if only rejected entries provide it, or if two distributions do. In the latter case neither is used,
                because the choice must not depend on the order of installation.
        """
        usable = self._usable_entries(kind, name)
        if not usable:
            for entry in self.entries:
                if (entry.kind, entry.name) == (kind, name) and (rejection := self.find_rejection(entry)):
                    raise rejection.to_error(entry)
            raise self._unknown_name_error(kind, name)
        if len(usable) > 1:
            sources = " and ".join(entry.source for entry in usable)
            message = f"{kind} `{name}` is provided more than once, by {sources}"
            raise PluginError([Problem(message, hint=_duplicate_hint(usable))])
        return usable[0]

    def _usable_entries(self, kind: str, name: str) -> list[Entry]:
        return [
            entry
            for entry in self.entries
            if (entry.kind, entry.name) == (kind, name) and not self.find_rejection(entry)
        ]

    def _unknown_name_error(self, kind: str, name: str) -> RecipeError:
        close = difflib.get_close_matches(name, self.names(kind), n=1)
        known = f"installed are: {', '.join(self.names(kind))}"
        hint = f"did you mean `{close[0]}`? {known}" if close else f"{known}; install the distribution that provides it"
        return RecipeError([Problem(f"there is no {kind} `{name}`", hint=hint)])


def _duplicate_hint(entries: Sequence[Entry]) -> str:
    """What to do about several entries with one name: remove a plugin file, or else a distribution."""
    if plugin_files := [path for entry in entries if (path := find_plugin_file(entry))]:
        return " or ".join(f"remove `--plugin {path}`" for path in dict.fromkeys(plugin_files))
    last = entries[-1].distribution
    return f"uninstall one of them: pip uninstall {last}; or block one: NI_PLUGINS=-{last}"


@cache
def installed_catalog() -> Catalog:
    """The catalog of the installed distributions and of the plugin files; read once per process."""
    return Catalog(sorted([*discover(), *file_plugin_entries()]), allowlist_from_env())
