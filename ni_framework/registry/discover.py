"""What is installed, read from metadata alone: nothing is imported."""

from __future__ import annotations

from importlib import metadata

from attrs import frozen

from ni_framework.options import KINDS

GROUP = "ni_framework."


@frozen(order=True)
class Entry:
    """One component as its distribution announces it."""

    kind: str
    name: str
    distribution: str
    version: str
    value: str  # "package.module:Class"

    @property
    def source(self) -> str:
        """The distribution and its version, as errors name it."""
        return f"{self.distribution} {self.version}"


def discover() -> list[Entry]:
    """Every entry point of every kind, sorted, so that nothing depends on the order of installation."""
    found = {
        Entry(
            kind=point.group.removeprefix(GROUP),
            name=point.name,
            distribution=point.dist.name if point.dist else "unknown",
            version=point.dist.version if point.dist else "0",
            value=point.value,
        )
        for kind in KINDS
        for point in metadata.entry_points(group=GROUP + kind)
    }
    return sorted(found)
