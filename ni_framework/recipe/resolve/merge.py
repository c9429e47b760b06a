"""Lays one tree of values over another, for `extends`, for overrides and for the scripts of a model.

Mappings are merged key by key, everything else is replaced. If both name a component and the names differ, the options of
the replaced component are dropped too. A bare name means `{use: name}`, as everywhere in a recipe.
"""

from __future__ import annotations

from ni_framework.recipe.parsing.nodes import (
    BrokenNode,
    ListNode,
    MappingEntry,
    MappingNode,
    Node,
    ScalarNode,
    explicit_use,
    join_path,
)
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.wording import describe_node
from ni_framework.recipe.resolve.schema_hints import UNKNOWN_SCHEMA, SchemaHint


def merge(base: Node, overlay: Node, problems: Problems, schema: SchemaHint = UNKNOWN_SCHEMA, path: str = "") -> Node:
    """The base with the overlay laid over it; every node keeps the place where it was written.

    Args:
        base: The tree below.
        overlay: The tree on top, whose values win.
        problems: Collects what is wrong.
        schema: The schema at this place, which decides which component a mapping without `use` means.
        path: The key path of this place.
    """
    if isinstance(base, BrokenNode):
        return BrokenNode(base.mark) if isinstance(overlay, MappingNode) else overlay
    if isinstance(overlay, MappingNode) and isinstance(base, ScalarNode) and schema.may_be_name(base):
        base = _as_use_mapping(base)
    elif isinstance(overlay, ScalarNode) and isinstance(base, MappingNode) and schema.may_be_name(overlay):
        overlay = _as_use_mapping(overlay) if schema.is_named_by_use or "use" in base.entries else overlay
    if not isinstance(overlay, MappingNode):
        return overlay
    if isinstance(base, MappingNode):
        return _merge_mappings(base, overlay, problems, schema, path)
    if overlay.from_path and isinstance(base, ListNode):
        return _merge_items(base, overlay, problems, schema, path)
    if overlay.from_path and isinstance(base, ScalarNode) and base.value is not None:
        first_entry = next(iter(overlay.entries.values()))
        problems.add(path, f"is {describe_node(base)}, which has no keys to set", first_entry.mark)
        return BrokenNode(overlay.mark)
    return overlay


def _merge_mappings(base: MappingNode, overlay: MappingNode, problems: Problems, schema: SchemaHint, path: str) -> Node:
    base_use, overlay_use = schema.effective_use(base), explicit_use(overlay)
    if base_use is not None and overlay_use is not None and base_use != overlay_use:
        return overlay
    entries = dict(base.entries)
    for key, entry in overlay.entries.items():
        if key in entries:
            node = merge(entries[key].node, entry.node, problems, schema.at_key(base, key), join_path(path, key))
            # A key inside the path of an override was written by the file, and keeps the place in the file.
            is_inside_path = isinstance(entry.node, MappingNode) and entry.node.from_path
            entries[key] = MappingEntry(entries[key].mark if is_inside_path else entry.mark, node)
        else:
            entries[key] = entry
    return MappingNode(entries, base.mark if overlay.from_path else overlay.mark, base.from_path and overlay.from_path)


def _merge_items(base: ListNode, overlay: MappingNode, problems: Problems, schema: SchemaHint, path: str) -> Node:
    items = list(base.items)
    for key, entry in overlay.entries.items():
        if not (key.isascii() and key.isdigit() and len(key) < 6 and int(key) < len(items)):
            hint = f"its items are 0 to {len(items) - 1}" if items else "it is empty"
            problems.add(join_path(path, key), "is not in the list", entry.mark, hint)
            continue
        items[int(key)] = merge(items[int(key)], entry.node, problems, schema.at_item(), join_path(path, key))
    return ListNode(items, base.mark)


def _as_use_mapping(node: ScalarNode) -> MappingNode:
    return MappingNode({"use": MappingEntry(node.mark, node)}, node.mark)
