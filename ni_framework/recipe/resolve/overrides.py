"""Overrides, `key.path=value` on the command line, as one tree that is laid over the recipe's."""

from __future__ import annotations

from collections.abc import Sequence

from ni_framework.errors import Mark, Problem, RecipeError
from ni_framework.recipe.parsing.nodes import Entry, MappingNode, Node
from ni_framework.recipe.parsing.parser import MAX_DEPTH, Budget, parse
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.source import Source, from_override
from ni_framework.recipe.resolve.merge import merge

_FIXED = {
    "extends": "write it in the recipe: it decides what there is to override",
    "ni": "write it in the recipe: it says how the recipe is to be read",
}


def read_overrides(arguments: Sequence[str], problems: Problems, budget: Budget) -> MappingNode | None:
    """The overrides as one tree, the later ones laid over the earlier; None where there are none, or none is usable."""
    tree: Node | None = None
    for argument in arguments:
        try:
            override = _read(argument, problems, budget)
        except RecipeError as error:
            problems.recipe += error.problems
            continue
        tree = override if tree is None else merge(tree, override, problems)
    assert tree is None or isinstance(tree, MappingNode)
    return tree


def _read(argument: str, problems: Problems, budget: Budget) -> MappingNode:
    path, equals, value = argument.partition("=")
    source = from_override(argument, value)
    whole = Source(source.name, argument, (argument,), numbered=False)
    if not equals:
        raise RecipeError([Problem("an override is `key.path=value`", whole.mark(0, len(argument)), "`=` is missing")])
    marks = _check_path(path, whole)
    node = parse(source, problems, budget, path)
    if node is None:
        mark = whole.mark(0, len(argument))
        raise RecipeError(
            [Problem(f"{path}: has no value after `=`", mark, "write `null` for no value, '' for empty text")]
        )
    budget.spend(source, 0, 0, len(marks))
    for segment, mark in reversed(list(zip(path.split("."), marks, strict=True))):
        node = MappingNode({segment: Entry(mark, node)}, mark, from_path=True)
    assert isinstance(node, MappingNode)
    return node


def _check_path(path: str, whole: Source) -> list[Mark]:
    """The place of each segment of a path; raises `RecipeError` for a path that cannot be one."""
    segments, marks, column = path.split("."), [], 0
    for segment in segments:
        marks.append(whole.mark(0, column))
        if not segment or segment != segment.strip() or not segment.isprintable():
            message = "a key path is keys joined by dots, as in `train.steps`"
            raise RecipeError([Problem(message, marks[-1], None if segment else "a key is missing here")])
        column += len(segment) + 1
    if len(segments) > MAX_DEPTH:
        raise RecipeError([Problem(f"a key path has at most {MAX_DEPTH} keys", marks[MAX_DEPTH])])
    if hint := _FIXED.get(segments[0]):
        raise RecipeError([Problem(f"{segments[0]}: cannot be overridden", marks[0], hint)])
    return marks
