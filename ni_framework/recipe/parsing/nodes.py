"""What a recipe's text says, before anything knows what it means: a tree in which every part has its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from ni_framework.errors import Mark


@attrs.frozen
class ScalarNode:
    """One value: text, a number, true, false or null."""

    value: bool | int | float | str | None
    mark: Mark
    text: str  # as it stands in the recipe, without its quotes
    quoted: bool = False


@attrs.frozen
class Entry:
    """A key of a mapping, with its own place, and the value it holds."""

    mark: Mark
    node: Node


@attrs.frozen
class MappingNode:
    """Keys and their values, in the order in which they were written."""

    entries: Mapping[str, Entry]
    mark: Mark
    from_path: bool = (
        False  # built from an override's `a.b.c=`, so it changes a mapping or a list and never replaces one
    )

    def get(self, key: str) -> Node | None:
        """The value at a key, None where the key is absent."""
        entry = self.entries.get(key)
        return entry.node if entry else None


@attrs.frozen
class ListNode:
    """Values in an order."""

    items: Sequence[Node]
    mark: Mark


@attrs.frozen
class BrokenNode:
    """A value whose problem is already reported: whoever meets it says nothing more."""

    mark: Mark


Node = ScalarNode | MappingNode | ListNode | BrokenNode


def size(node: Node) -> int:
    """The number of nodes in a tree, its keys among them."""
    if isinstance(node, MappingNode):
        return 1 + sum(1 + size(entry.node) for entry in node.entries.values())
    if isinstance(node, ListNode):
        return 1 + sum(size(item) for item in node.items)
    return 1


def join(path: str, key: str | int) -> str:
    """The key path of a part: `model.scripts` and 0 give `model.scripts.0`."""
    return f"{path}.{key}" if path else str(key)


def explicit_use(node: MappingNode) -> str | None:
    """The component that a mapping names itself, None where it names none."""
    use = node.get("use")
    return use.value if isinstance(use, ScalarNode) and isinstance(use.value, str) else None
