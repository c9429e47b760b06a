"""What is installed, read from metadata alone: nothing is imported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from attrs import frozen

from ni_framework.options import KINDS

GROUP = "ni_framework."
HOOKS = "hooks"  # the group of listeners to a run's events, beside those of the kinds
OWN = "ni-framework"
ONE_FILE = "ni_one_file_"  # begins the names of modules that are a plugin of one file, so that torch.py hides nothing


@frozen(order=True)
class Entry:
    """One component, or listener, as its distribution announces it."""

    kind: str
    name: str
    distribution: str
    version: str
    value: str  # "package.module:Class"

    @property
    def source(self) -> str:
        """The distribution and its version, as errors name it; of a plugin of one file, the file."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def label(self) -> str:
        """What errors call it."""
        kind = "listener" if self.kind == HOOKS else self.kind
        return f"{kind} `{self.name}` of {self.source}"

    @property
    def module(self) -> str:
        """The module that is imported for it."""
        return self.value.partition(":")[0].strip()

    @property
    def is_one_file(self) -> bool:
        """Whether it is a file that was given by --plugin."""
        return self.module.startswith(ONE_FILE)

    @property
    def package(self) -> str:
        """The top-level package of that module."""
        return self.module.partition(".")[0]

    @property
    def is_own(self) -> bool:
        """Whether the framework itself brings it."""
        return normalised(self.distribution) == OWN


def normalised(distribution: str) -> str:
    """The one spelling that pip compares names of distributions by."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def discover() -> list[Entry]:
    """Every entry point of every kind, and the listeners, sorted, so that nothing depends on the order of installation.

    Metadata that cannot be read are passed over: whose they are, they are not to stop everybody. Where one distribution is on the
    path twice, the first counts, as it does for imports.
    """
    found: dict[str, list[Entry]] = {}
    for distribution in metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if f"[{GROUP}" in text:
                found.setdefault(normalised(distribution.name), list(_announced(distribution, text)))
        except Exception:
            continue
    return sorted({entry for entries in found.values() for entry in entries})


def _announced(distribution: metadata.Distribution, text: str) -> Iterator[Entry]:
    """The entries in an `entry_points.txt`, line by line: one that is malformed is an entry that cannot be loaded."""
    groups = {GROUP + kind: kind for kind in (*KINDS, HOOKS)}
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = line.strip("[] ")
        elif group in groups and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            value = re.sub(r"\s|\[.*", "", value)  # blanks and extras say nothing that is asked here
            yield Entry(groups[group], name.strip(), distribution.name, distribution.version or "0", value)
