"""Text to a tree of nodes: strict YAML within limits, without recursion and without copies.

Nothing is expanded and every limit is checked while the text is being read, so that no text, however it is made, costs
much more than its length.
"""

from __future__ import annotations

import attrs
import yaml

from ni_framework.errors import Mark, Problem, RecipeError
from ni_framework.recipe.parsing.events import Events
from ni_framework.recipe.parsing.nodes import BrokenNode, Entry, ListNode, MappingNode, Node, ScalarNode, join
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.scalars import meaning
from ni_framework.recipe.parsing.source import Source
from ni_framework.recipe.parsing.wording import printable, shown

MAX_NODES = 10_000
MAX_DEPTH = 32
MAX_KEY = 100


class Budget:
    """The nodes that a recipe may have, over its own text, those it extends and its overrides together."""

    def __init__(self, nodes: int = MAX_NODES) -> None:
        self.left = nodes

    def spend(self, source: Source, line: int, column: int, nodes: int = 1) -> None:
        """Takes nodes from the budget; raises `RecipeError` where it is used up."""
        self.left -= nodes
        if self.left < 0:
            raise RecipeError([Problem(f"a recipe has at most {MAX_NODES} values", source.mark(line, column))])


@attrs.define
class _Open:
    """A mapping or a list whose end is yet to come."""

    mark: Mark
    path: str
    is_list: bool
    items: list[Node] = attrs.field(factory=list)
    entries: dict[str, Entry] = attrs.field(factory=dict)
    expects_key: bool = True
    key: str | None = None  # None where the key is unusable, so that its value is dropped
    key_mark: Mark | None = None

    @property
    def next_path(self) -> str:
        """The key path of the part that comes next."""
        if self.is_list:
            return join(self.path, len(self.items))
        return self.path if self.key is None or self.expects_key else join(self.path, self.key)

    def close(self) -> Node:
        """The complete node."""
        return ListNode(self.items, self.mark) if self.is_list else MappingNode(self.entries, self.mark)


def parse(source: Source, problems: Problems, budget: Budget, path: str = "") -> Node | None:
    """The tree of a text, None for one without content; a part that is wrong is noted and broken.

    `path` is where the tree will stand, for the messages. Raises `RecipeError` where the rest cannot be known.
    """
    stack: list[_Open] = []
    root: Node | None = None
    for event in Events(source).all():
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            mark = source.mark(event.start_mark.line, event.start_mark.column)
            raise RecipeError([Problem("a recipe is one document", mark, "remove everything from this `---` on")])
        if isinstance(event, yaml.NodeEvent):
            line, column = event.start_mark.line, event.start_mark.column
            budget.spend(source, line, column)
            mark = source.mark(line, column)
            here = stack[-1].next_path if stack else path
            if isinstance(event, yaml.CollectionStartEvent):
                if len(stack) == MAX_DEPTH:
                    raise RecipeError([Problem(f"a recipe is at most {MAX_DEPTH} levels deep", mark)])
                if not event.flow_style and stack and stack[-1].key_mark and not stack[-1].expects_key:
                    mark = stack[-1].key_mark  # `train:`, which names the whole, rather than the first line inside it
                stack.append(_Open(mark, here, isinstance(event, yaml.SequenceStartEvent)))
                continue
            assert isinstance(event, yaml.ScalarEvent)  # the scanner refuses aliases
            node: Node = _scalar(event, mark, here, problems)
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


def _scalar(event: yaml.ScalarEvent, mark: Mark, path: str, problems: Problems) -> ScalarNode | BrokenNode:
    if event.style is not None:
        wrong = next(
            (character for character in event.value if character == "\0" or "\ud800" <= character < "\ue000"), None
        )
        if wrong is not None:
            problems.add(path, f"text cannot hold the character U+{ord(wrong):04X}", mark)
            return BrokenNode(mark)
        return ScalarNode(event.value, mark, event.value, quoted=True)
    try:
        return ScalarNode(meaning(event.value), mark, event.value)
    except ValueError as error:
        problems.add(path, f"the number {error}", mark)
        return BrokenNode(mark)


def _attach(parent: _Open, node: Node, problems: Problems) -> None:
    """Puts a complete node into the collection around it, where it is an item, a key or a value."""
    if parent.is_list:
        parent.items.append(node)
    elif parent.expects_key:
        parent.expects_key, parent.key_mark = False, node.mark
        parent.key = _key(parent, node, problems)
    else:
        parent.expects_key = True
        if parent.key is not None and parent.key_mark is not None:
            parent.entries[parent.key] = Entry(parent.key_mark, node)


def _key(parent: _Open, node: Node, problems: Problems) -> str | None:
    """The name that a node in the place of a key gives, None (and a problem) where it cannot be one."""
    if isinstance(node, BrokenNode):
        return None
    if not isinstance(node, ScalarNode):
        problems.add(parent.path, f"a key is text, not {shown(node)}", node.mark)
    elif not isinstance(node.value, str):
        message = f"a key is text, not {shown(node)}" if node.text else "a key is missing before `:`"
        problems.add(parent.path, message, node.mark, "put it in quotes" if node.text else None)
    elif node.value == "<<":
        problems.add(parent.path, "`<<` is not used in recipes", node.mark, "use `extends` to share values")
    elif not node.value or len(node.value) > MAX_KEY or not node.value.isprintable():
        problems.add(parent.path, f"a key has 1 to {MAX_KEY} visible characters", node.mark)
    elif first := parent.entries.get(node.value):
        path = join(parent.path, printable(node.value))
        same_line = first.mark.line == node.mark.line
        where = f"in column {first.mark.column}" if same_line else f"on line {first.mark.line}"
        problems.add(path, "is given twice", node.mark, f"it is first given {where}")
    else:
        return node.value
    return None
