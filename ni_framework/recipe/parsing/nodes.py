"""The tree of a recipe's text before it is compared with the schema; every node has its place in the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from ni_framework.errors import Mark


@attrs.frozen
class ScalarNode:
    """One value: text, a number, true, false or null."""

    value: bool | int | float | str | None
    mark: Mark
    text: str  # as written in the recipe, without its quotes
    quoted: bool = False


@attrs.frozen
class MappingEntry:
    """A key of a mapping, with its own place, and its value."""

    mark: Mark
    node: Node


@attrs.frozen
class MappingNode:
    """Keys and their values, in the order in which they were written."""

    entries: Mapping[str, MappingEntry]
    mark: Mark
    # True if it comes from the `a.b.c=` of an override: it then changes a mapping or a list and never replaces one.
    from_path: bool = False

    def get(self, key: str) -> Node | None:
        """The value at a key; None if the key is absent."""
        entry = self.entries.get(key)
        return entry.node if entry else None


@attrs.frozen
class ListNode:
    """A list of values."""

    items: Sequence[Node]
    mark: Mark


@attrs.frozen
class BrokenNode:
    """A value whose problem is already recorded, so that nothing more is reported about it."""

    mark: Mark


Node = ScalarNode | MappingNode | ListNode | BrokenNode


def count_nodes(node: Node) -> int:
    """The number of nodes in a tree, keys included."""
    if isinstance(node, MappingNode):
        return 1 + sum(1 + count_nodes(entry.node) for entry in node.entries.values())
    if isinstance(node, ListNode):
        return 1 + sum(count_nodes(item) for item in node.items)
    return 1


def join_path(path: str, key: str | int) -> str:
    """The key path of an entry or item: `model.scripts` and 0 give `model.scripts.0`."""
    return f"{path}.{key}" if path else str(key)


def explicit_use(node: MappingNode) -> str | None:
    """The component that a mapping names with `use`; None if it names none."""
    use = node.get("use")
    return use.value if isinstance(use, ScalarNode) and isinstance(use.value, str) else None
