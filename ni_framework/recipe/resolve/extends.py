"""Reads a recipe's file and the files that it extends, and lays them over each other."""

from __future__ import annotations

import os
from pathlib import PurePath, PureWindowsPath

from ni_framework.errors import Mark, Problem, RecipeError
from ni_framework.recipe.parsing.nodes import BrokenNode, MappingNode, Node, ScalarNode
from ni_framework.recipe.parsing.parser import NodeBudget, parse
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.source import Source, decode, read_bytes, source_from_text
from ni_framework.recipe.parsing.wording import describe_node, escape_unprintable, quote_text
from ni_framework.recipe.resolve.merge import merge
from ni_framework.recipe.resolve.schema_hints import SchemaHint

MAX_CHAIN = 16


def read_files(path: str, problems: Problems, budget: NodeBudget, schema: SchemaHint) -> MappingNode:
    """The tree of a recipe, laid over the recipes that it extends; the key `extends` itself is removed.

    Args:
        path: The file of the recipe.
        problems: Collects what is wrong.
        budget: The nodes that all files may have together.
        schema: The schema of a recipe, which the merge needs for components without `use`.
    """
    chain: list[MappingNode] = []
    names: list[str] = []
    seen: set[str] = set()
    mark: Mark | None = None
    while True:
        name = escape_unprintable(os.path.normpath(path))
        names.append(name)
        if os.path.realpath(path) in seen:
            raise RecipeError([Problem(f"extends: forms a circle: {' -> '.join(names)}", mark)])
        if len(names) > MAX_CHAIN:
            raise RecipeError([Problem(f"extends: is a chain of more than {MAX_CHAIN} recipes", mark)])
        seen.add(os.path.realpath(path))
        tree, extends = split_extends(read_tree(_open_source(path, name, mark), problems, budget), problems)
        chain.append(tree)
        if extends is None:
            break
        path, mark = os.path.join(os.path.dirname(path), str(extends.value)), extends.mark
    merged: Node = chain.pop()
    while chain:
        merged = merge(merged, chain.pop(), problems, schema)
    assert isinstance(merged, MappingNode)
    return merged


def _open_source(path: str, name: str, mark: Mark | None) -> Source:
    """The text of a file; a problem with reading it is placed at `mark`, where another recipe extends it."""
    try:
        content = read_bytes(path)
    except ValueError as error:
        message, place = (
            (f"extends: {name}: {error}", mark) if mark else (str(error), Mark(name, 1, 1, "", numbered=False))
        )
        raise RecipeError([Problem(message, place)]) from None
    return source_from_text(name, decode(name, content))


def read_tree(source: Source, problems: Problems, budget: NodeBudget) -> MappingNode:
    """The tree of one text.

    Args:
        source: The text.
        problems: Collects what is wrong.
        budget: The nodes that may be created.

    Raises:
        RecipeError: if the text is empty or not a mapping.
    """
    tree = parse(source, problems, budget)
    if tree is None:
        raise RecipeError(
            [Problem("the recipe is empty", source.mark(0, 0), "`ni new recipe` writes one to start from")]
        )
    if isinstance(tree, BrokenNode):
        problems.raise_if_any()
    if not isinstance(tree, MappingNode):
        raise RecipeError(
            [Problem(f"a recipe must be a mapping of keys to values, not {describe_node(tree)}", tree.mark)]
        )
    return tree


def split_extends(tree: MappingNode, problems: Problems) -> tuple[MappingNode, ScalarNode | None]:
    """A recipe's own keys, and the value of `extends` if that is a usable path."""
    entries = dict(tree.entries)
    entry = entries.pop("extends", None)
    tree = MappingNode(entries, tree.mark)
    if entry is None or isinstance(entry.node, BrokenNode):
        return tree, None
    node = entry.node
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str) or not node.value.strip():
        problems.add(
            "extends",
            f"must be the path of a recipe, not {describe_node(node)}",
            node.mark,
            "a recipe can extend one other recipe",
        )
    elif PurePath(node.value).is_absolute() or PureWindowsPath(node.value).drive or node.value.startswith(("~", "\\")):
        hint = "write it relative to the folder of this recipe, as in `../base.yaml`"
        problems.add("extends", f"must be a relative path, not {quote_text(node.value)}", node.mark, hint)
    else:
        return tree, node
    # Without the recipe that it extends, all keys of that recipe would be reported as missing.
    problems.raise_if_any()
    return tree, None
