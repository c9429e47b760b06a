"""A recipe's file and the files it extends, laid over each other."""

from __future__ import annotations

import os
from pathlib import PurePath, PureWindowsPath

from ni_framework.errors import Mark, Problem, RecipeError
from ni_framework.recipe.parsing.nodes import BrokenNode, MappingNode, Node, ScalarNode
from ni_framework.recipe.parsing.parser import Budget, parse
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.source import Source, decode, from_text, read_bytes
from ni_framework.recipe.parsing.wording import printable, quoted, shown
from ni_framework.recipe.resolve.merge import merge
from ni_framework.recipe.resolve.schema_hints import Outline

MAX_CHAIN = 16


def read_files(path: str, problems: Problems, budget: Budget, outline: Outline) -> MappingNode:
    """The tree of a recipe with everything it extends below it, without the key `extends` itself."""
    chain: list[MappingNode] = []
    names: list[str] = []
    seen: set[str] = set()
    mark: Mark | None = None
    while True:
        name = printable(os.path.normpath(path))
        names.append(name)
        if os.path.realpath(path) in seen:
            raise RecipeError([Problem(f"extends: goes round in a circle: {' -> '.join(names)}", mark)])
        if len(names) > MAX_CHAIN:
            raise RecipeError([Problem(f"extends: is a chain of more than {MAX_CHAIN} recipes", mark)])
        seen.add(os.path.realpath(path))
        tree, extends = split(read_tree(_open(path, name, mark), problems, budget), problems)
        chain.append(tree)
        if extends is None:
            break
        path, mark = os.path.join(os.path.dirname(path), str(extends.value)), extends.mark
    merged: Node = chain.pop()
    while chain:
        merged = merge(merged, chain.pop(), problems, outline)
    assert isinstance(merged, MappingNode)
    return merged


def _open(path: str, name: str, mark: Mark | None) -> Source:
    """The text of a file; one that cannot be read is wrong at `mark`, where the recipe above names it."""
    try:
        content = read_bytes(path)
    except ValueError as error:
        message, place = (
            (f"extends: {name}: {error}", mark) if mark else (str(error), Mark(name, 1, 1, "", numbered=False))
        )
        raise RecipeError([Problem(message, place)]) from None
    return from_text(name, decode(name, content))


def read_tree(source: Source, problems: Problems, budget: Budget) -> MappingNode:
    """The tree of one text, which is a mapping; raises `RecipeError` where it is not."""
    tree = parse(source, problems, budget)
    if tree is None:
        raise RecipeError(
            [Problem("the recipe is empty", source.mark(0, 0), "`ni new recipe` writes one to start from")]
        )
    if isinstance(tree, BrokenNode):
        problems.stop_if_any()
    if not isinstance(tree, MappingNode):
        raise RecipeError([Problem(f"a recipe is a mapping of keys to values, not {shown(tree)}", tree.mark)])
    return tree


def split(tree: MappingNode, problems: Problems) -> tuple[MappingNode, ScalarNode | None]:
    """A recipe's own keys, and the value of `extends` where that is a usable path."""
    entries = dict(tree.entries)
    entry = entries.pop("extends", None)
    tree = MappingNode(entries, tree.mark)
    if entry is None or isinstance(entry.node, BrokenNode):
        return tree, None
    node = entry.node
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str) or not node.value.strip():
        problems.add(
            "extends", f"must be the path of a recipe, not {shown(node)}", node.mark, "a recipe extends one other"
        )
    elif PurePath(node.value).is_absolute() or PureWindowsPath(node.value).drive or node.value.startswith(("~", "\\")):
        hint = "write it relative to the folder of this recipe, as in `../base.yaml`"
        problems.add("extends", f"must be a relative path, not {quoted(node.value)}", node.mark, hint)
    else:
        return tree, node
    problems.stop_if_any()  # without the recipe below it, all of its keys would seem to be missing
    return tree, None
