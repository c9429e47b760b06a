"""Lays one tree of values over another: what `extends`, overrides and the scripts of a model have in common.

Mappings merge key by key, everything else is replaced. Where both name a component and the names differ, the options of
the old one go with it. A bare name stands for `{use: name}`, as it does everywhere in a recipe.
"""

from __future__ import annotations

from ni_framework.recipe.parsing.nodes import (
    BrokenNode,
    Entry,
    ListNode,
    MappingNode,
    Node,
    ScalarNode,
    explicit_use,
    join,
)
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.wording import shown
from ni_framework.recipe.resolve.schema_hints import UNKNOWN, Outline


def merge(base: Node, over: Node, problems: Problems, outline: Outline = UNKNOWN, path: str = "") -> Node:
    """The base with everything that `over` says laid over it; each part keeps the place where it was written.

    `outline` says which component a mapping without `use` means.
    """
    if isinstance(base, BrokenNode):
        return BrokenNode(base.mark) if isinstance(over, MappingNode) else over
    if isinstance(over, MappingNode) and isinstance(base, ScalarNode) and outline.may_be_name(base):
        base = _named(base)
    elif isinstance(over, ScalarNode) and isinstance(base, MappingNode) and outline.may_be_name(over):
        over = _named(over) if outline.is_choice or "use" in base.entries else over
    if not isinstance(over, MappingNode):
        return over
    if isinstance(base, MappingNode):
        return _merge_mappings(base, over, problems, outline, path)
    if over.from_path and isinstance(base, ListNode):
        return _merge_items(base, over, problems, outline, path)
    if over.from_path and isinstance(base, ScalarNode) and base.value is not None:
        first = next(iter(over.entries.values()))
        problems.add(path, f"is {shown(base)}, which has no keys to set", first.mark)
        return BrokenNode(over.mark)
    return over


def _merge_mappings(base: MappingNode, over: MappingNode, problems: Problems, outline: Outline, path: str) -> Node:
    old, new = outline.use(base), explicit_use(over)
    if old is not None and new is not None and old != new:
        return over
    entries = dict(base.entries)
    for key, entry in over.entries.items():
        if key in entries:
            inside = outline.inside(base, key)
            node = merge(entries[key].node, entry.node, problems, inside, join(path, key))
            # An override's path only passes through a key that the file has written.
            passing = isinstance(entry.node, MappingNode) and entry.node.from_path
            entries[key] = Entry(entries[key].mark if passing else entry.mark, node)
        else:
            entries[key] = entry
    return MappingNode(entries, base.mark if over.from_path else over.mark, base.from_path and over.from_path)


def _merge_items(base: ListNode, over: MappingNode, problems: Problems, outline: Outline, path: str) -> Node:
    items = list(base.items)
    for key, entry in over.entries.items():
        if not (key.isascii() and key.isdigit() and len(key) < 6 and int(key) < len(items)):
            last = f"its items are 0 to {len(items) - 1}" if items else "it is empty"
            problems.add(join(path, key), "is not in the list", entry.mark, last)
            continue
        items[int(key)] = merge(items[int(key)], entry.node, problems, outline.item(), join(path, key))
    return ListNode(items, base.mark)


def _named(node: ScalarNode) -> MappingNode:
    return MappingNode({"use": Entry(node.mark, node)}, node.mark)
