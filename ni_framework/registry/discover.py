"""Finds what is installed, from metadata alone: nothing is imported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from attrs import frozen

from ni_framework.options import COMPONENT_KINDS

ENTRY_POINT_PREFIX = "ni_framework."
# The group of listeners to run events; the other groups are the kinds of components.
HOOKS = "hooks"
FRAMEWORK_DISTRIBUTION = "ni-framework"
# Module names of single-file plugins begin with this, so that a plugin file torch.py does not hide torch.
FILE_PLUGIN_PREFIX = "ni_one_file_"


@frozen(order=True)
class Entry:
    """One component or listener, as its distribution declares it."""

    kind: str
    name: str
    distribution: str
    version: str
    value: str  # "package.module:Class"

    @property
    def source(self) -> str:
        """The distribution and its version, as messages show it; for a single-file plugin, the file."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def label(self) -> str:
        """What messages call it."""
        kind = "listener" if self.kind == HOOKS else self.kind
        return f"{kind} `{self.name}` of {self.source}"

    @property
    def module(self) -> str:
        """The module that is imported for it."""
        return self.value.partition(":")[0].strip()

    @property
    def is_file_plugin(self) -> bool:
        """Whether it is in a file that was given with `--plugin`."""
        return self.module.startswith(FILE_PLUGIN_PREFIX)

    @property
    def package(self) -> str:
        """The top-level package of that module."""
        return self.module.partition(".")[0]

    @property
    def is_builtin(self) -> bool:
        """Whether the framework itself provides it."""
        return normalize_distribution(self.distribution) == FRAMEWORK_DISTRIBUTION


def normalize_distribution(distribution: str) -> str:
    """The spelling by which pip compares the names of distributions."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def discover() -> list[Entry]:
    """All entry points of all kinds, and the listeners, sorted, so that nothing depends on the order of installation.

    Metadata that cannot be read are skipped, so that one damaged distribution does not stop every command. If a distribution
    is on the path twice, the first one counts, as it does for imports.
    """
    entries_by_distribution: dict[str, list[Entry]] = {}
    for distribution in metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if f"[{ENTRY_POINT_PREFIX}" in text:
                entries_by_distribution.setdefault(
                    normalize_distribution(distribution.name), list(_parse_entry_points(distribution, text))
                )
        except Exception:
            continue
    return sorted({entry for entries in entries_by_distribution.values() for entry in entries})


def _parse_entry_points(distribution: metadata.Distribution, text: str) -> Iterator[Entry]:
    """The entries in an `entry_points.txt`, line by line; a malformed line gives an entry that cannot be loaded."""
    groups = {ENTRY_POINT_PREFIX + kind: kind for kind in (*COMPONENT_KINDS, HOOKS)}
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = line.strip("[] ")
        elif group in groups and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            value = re.sub(r"\s|\[.*", "", value)  # Without spaces and extras.
            yield Entry(groups[group], name.strip(), distribution.name, distribution.version or "0", value)
