"""Reads overrides, `key.path=value` on the command line, into one tree that is laid over the recipe's tree."""

from __future__ import annotations

from collections.abc import Sequence

from ni_framework.errors import Mark, Problem, RecipeError
from ni_framework.recipe.parsing.nodes import MappingEntry, MappingNode, Node
from ni_framework.recipe.parsing.parser import MAX_DEPTH, NodeBudget, parse
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.source import Source, source_from_override
from ni_framework.recipe.resolve.merge import merge

_NOT_OVERRIDABLE = {
    "extends": "write it in the recipe: it decides which keys there are to override",
    "ni": "write it in the recipe: it is the format in which the recipe is read",
}


def read_overrides(arguments: Sequence[str], problems: Problems, budget: NodeBudget) -> MappingNode | None:
    """The overrides as one tree, later ones laid over earlier ones.

    Args:
        arguments: Overrides as `key.path=value`.
        problems: Collects what is wrong.
        budget: The nodes that the recipe and its overrides may have together.

    Returns:
        The tree; None if there is no override, or no usable one.
    """
    tree: Node | None = None
    for argument in arguments:
        try:
            override = _read_override(argument, problems, budget)
        except RecipeError as error:
            problems.recipe_problems += error.problems
            continue
        tree = override if tree is None else merge(tree, override, problems)
    assert tree is None or isinstance(tree, MappingNode)
    return tree


def _read_override(argument: str, problems: Problems, budget: NodeBudget) -> MappingNode:
    path, equals, value = argument.partition("=")
    source = source_from_override(argument, value)
    argument_source = Source(source.name, argument, (argument,), numbered=False)
    if not equals:
        raise RecipeError(
            [Problem("an override must be `key.path=value`", argument_source.mark(0, len(argument)), "`=` is missing")]
        )
    marks = _check_path(path, argument_source)
    node = parse(source, problems, budget, path)
    if node is None:
        mark = argument_source.mark(0, len(argument))
        raise RecipeError(
            [Problem(f"{path}: has no value after `=`", mark, "write `null` for no value, or '' for empty text")]
        )
    budget.spend(source, 0, 0, len(marks))
    for segment, mark in reversed(list(zip(path.split("."), marks, strict=True))):
        node = MappingNode({segment: MappingEntry(mark, node)}, mark, from_path=True)
    assert isinstance(node, MappingNode)
    return node


def _check_path(path: str, argument_source: Source) -> list[Mark]:
    """The place of each key in a key path; raises `RecipeError` for an invalid path."""
    segments, marks, column = path.split("."), [], 0
    for segment in segments:
        marks.append(argument_source.mark(0, column))
        if not segment or segment != segment.strip() or not segment.isprintable():
            message = "a key path must be keys joined by dots, as in `train.steps`"
            raise RecipeError([Problem(message, marks[-1], None if segment else "a key is missing here")])
        column += len(segment) + 1
    if len(segments) > MAX_DEPTH:
        raise RecipeError([Problem(f"a key path must not have more than {MAX_DEPTH} keys", marks[MAX_DEPTH])])
    if hint := _NOT_OVERRIDABLE.get(segments[0]):
        raise RecipeError([Problem(f"{segments[0]}: cannot be overridden", marks[0], hint)])
    return marks
