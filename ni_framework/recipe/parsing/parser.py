"""Parses text into a tree of nodes: strict YAML within limits, without recursion and without copies.

Nothing is expanded and every limit is checked while the text is read, so that the cost of any text, also of a hostile one,
is proportional to its length.
"""

from __future__ import annotations

import attrs
import yaml

from ni_framework.errors import Mark, Problem, RecipeError
from ni_framework.recipe.parsing.events import Events
from ni_framework.recipe.parsing.nodes import (
    BrokenNode,
    ListNode,
    MappingEntry,
    MappingNode,
    Node,
    ScalarNode,
    join_path,
)
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.scalars import parse_plain_scalar
from ni_framework.recipe.parsing.source import Source
from ni_framework.recipe.parsing.wording import describe_node, escape_unprintable

MAX_NODES = 10_000
MAX_DEPTH = 32
MAX_KEY = 100


class NodeBudget:
    """The number of nodes that a recipe, the recipes that it extends and its overrides may have together."""

    def __init__(self, nodes: int = MAX_NODES) -> None:
        self.remaining = nodes

    def spend(self, source: Source, line: int, column: int, nodes: int = 1) -> None:
        """Takes nodes from the budget.

        Args:
            source: The text with the nodes.
            line: The line of the nodes, counted from 0.
            column: The column of the nodes, counted from 0.
            nodes: The number of nodes.

        Raises:
            RecipeError: at this place, if the budget is used up.
        """
        self.remaining -= nodes
        if self.remaining < 0:
            raise RecipeError(
                [Problem(f"a recipe must not have more than {MAX_NODES} values", source.mark(line, column))]
            )


@attrs.define
class _OpenCollection:
    """A mapping or a list whose end has not been read yet."""

    mark: Mark
    path: str
    is_list: bool
    items: list[Node] = attrs.field(factory=list)
    entries: dict[str, MappingEntry] = attrs.field(factory=dict)
    expects_key: bool = True
    key: str | None = None  # None if the key is unusable; its value is then dropped
    key_mark: Mark | None = None

    @property
    def next_path(self) -> str:
        """The key path of the node that comes next."""
        if self.is_list:
            return join_path(self.path, len(self.items))
        return self.path if self.key is None or self.expects_key else join_path(self.path, self.key)

    def close(self) -> Node:
        """The complete node."""
        return ListNode(self.items, self.mark) if self.is_list else MappingNode(self.entries, self.mark)


def parse(source: Source, problems: Problems, budget: NodeBudget, path: str = "") -> Node | None:
    """The tree of a text; a wrong value is recorded as a problem and becomes a `BrokenNode`.

    Args:
        source: The text.
        problems: Collects what is wrong.
        budget: The nodes that may be created.
        path: The key path at which the tree will be used, for messages.

    Returns:
        The tree; None for a text without content.

    Raises:
        RecipeError: if the rest of the text cannot be read after a problem.
    """
    stack: list[_OpenCollection] = []
    root: Node | None = None
    for event in Events(source).all():
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            mark = source.mark(event.start_mark.line, event.start_mark.column)
            raise RecipeError([Problem("a recipe must be one document", mark, "remove everything from this `---` on")])
        if isinstance(event, yaml.NodeEvent):
            line, column = event.start_mark.line, event.start_mark.column
            budget.spend(source, line, column)
            mark = source.mark(line, column)
            node_path = stack[-1].next_path if stack else path
            if isinstance(event, yaml.CollectionStartEvent):
                if len(stack) == MAX_DEPTH:
                    raise RecipeError([Problem(f"a recipe must not be more than {MAX_DEPTH} levels deep", mark)])
                if not event.flow_style and stack and stack[-1].key_mark and not stack[-1].expects_key:
                    # The place of a block is its key (`train:`) rather than the first line inside it.
                    mark = stack[-1].key_mark
                stack.append(_OpenCollection(mark, node_path, isinstance(event, yaml.SequenceStartEvent)))
                continue
            assert isinstance(event, yaml.ScalarEvent)  # `Events` rejects aliases.
            node: Node = _read_scalar(event, mark, node_path, problems)
        elif isinstance(event, yaml.CollectionEndEvent):
            node = stack.pop().close()
        else:
            continue
        if stack:
            _attach(stack[-1], node, problems)
        else:
            root = node
    if isinstance(root, ScalarNode) and not root.text and not root.quoted:
        return None
    return root


def _read_scalar(event: yaml.ScalarEvent, mark: Mark, path: str, problems: Problems) -> ScalarNode | BrokenNode:
    if event.style is not None:
        invalid = next(
            (character for character in event.value if character == "\0" or "\ud800" <= character < "\ue000"), None
        )
        if invalid is not None:
            problems.add(path, f"text must not contain the character U+{ord(invalid):04X}", mark)
            return BrokenNode(mark)
        return ScalarNode(event.value, mark, event.value, quoted=True)
    try:
        return ScalarNode(parse_plain_scalar(event.value), mark, event.value)
    except ValueError as error:
        problems.add(path, f"the number {error}", mark)
        return BrokenNode(mark)


def _attach(parent: _OpenCollection, node: Node, problems: Problems) -> None:
    """Adds a complete node to the collection around it, as an item, a key or a value."""
    if parent.is_list:
        parent.items.append(node)
    elif parent.expects_key:
        parent.expects_key, parent.key_mark = False, node.mark
        parent.key = _read_key(parent, node, problems)
    else:
        parent.expects_key = True
        if parent.key is not None and parent.key_mark is not None:
            parent.entries[parent.key] = MappingEntry(parent.key_mark, node)


def _read_key(parent: _OpenCollection, node: Node, problems: Problems) -> str | None:
    """The name that a node gives as a key; None, and a recorded problem, if it cannot be a key."""
    if isinstance(node, BrokenNode):
        return None
    if not isinstance(node, ScalarNode):
        problems.add(parent.path, f"a key must be text, not {describe_node(node)}", node.mark)
    elif not isinstance(node.value, str):
        message = f"a key must be text, not {describe_node(node)}" if node.text else "a key is missing before `:`"
        problems.add(parent.path, message, node.mark, "put it in quotes" if node.text else None)
    elif node.value == "<<":
        problems.add(parent.path, "`<<` is not used in recipes", node.mark, "use `extends` to share values")
    elif not node.value or len(node.value) > MAX_KEY or not node.value.isprintable():
        problems.add(parent.path, f"a key must have 1 to {MAX_KEY} visible characters", node.mark)
    elif first_entry := parent.entries.get(node.value):
        path = join_path(parent.path, escape_unprintable(node.value))
        first = first_entry.mark
        where = f"in column {first.column}" if first.line == node.mark.line else f"on line {first.line}"
        problems.add(path, "is given twice", node.mark, f"it is first given {where}")
    else:
        return node.value
    return None
