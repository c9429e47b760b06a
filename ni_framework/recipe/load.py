"""From a file and overrides to a checked recipe: parse, extend, override, complete the scripts, structure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import attrs

from ni_framework.errors import Mark, Problem, RecipeError
from ni_framework.recipe.parsing.nodes import MappingNode
from ni_framework.recipe.parsing.parser import Budget
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.source import from_text
from ni_framework.recipe.parsing.wording import printable
from ni_framework.recipe.resolve.extends import read_files, read_tree
from ni_framework.recipe.resolve.merge import merge
from ni_framework.recipe.resolve.overrides import read_overrides
from ni_framework.recipe.resolve.schema_hints import Outline
from ni_framework.recipe.resolve.scripts import complete
from ni_framework.recipe.schema import Recipe
from ni_framework.recipe.validate.fields import Resolve, Unmet, fields_of
from ni_framework.recipe.validate.structure import Structure


def _met(_: str) -> None:
    """Nothing is looked for."""


def load(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, resolve: Resolve, unmet: Unmet = _met
) -> Recipe:
    """The recipe in a file, with everything it extends below it and the overrides above it, checked and complete.

    `resolve` gives the `Config` class of the component of a kind with a name, `unmet` looks for what the recipe requires.
    Raises `RecipeError` with every problem there is, or `PluginError` where the recipe is in order and a plugin that it
    needs is not.
    """
    path = os.fspath(path)
    if "\0" in path:
        raise RecipeError([Problem("is not the path of a file", Mark(printable(path), 1, 1, "", numbered=False))])
    problems, budget = Problems(), Budget()
    tree = read_files(path, problems, budget, Outline(Recipe, None, resolve))
    return _finish(tree, overrides, problems, budget, resolve, unmet, _name(path))


def loads(
    text: str, overrides: Sequence[str] = (), *, resolve: Resolve, unmet: Unmet = _met, name: str = "recipe"
) -> Recipe:
    """The recipe in a text, which extends nothing; otherwise like `load`. `name` stands in messages for the file's."""
    problems, budget = Problems(), Budget()
    tree = read_tree(from_text(name, text), problems, budget)
    if extends := tree.entries.get("extends"):
        raise RecipeError([Problem("extends: needs a file, and this recipe is a text", extends.mark)])
    return _finish(tree, overrides, problems, budget, resolve, unmet, _name(name))


def load_options(cls: type, text: str, *, resolve: Resolve) -> Any:
    """An instance of a component's `Config` from the YAML of its options, checked as a recipe's are."""
    problems, budget = Problems(), Budget()
    tree = read_tree(from_text("options", text), problems, budget)
    options = Structure(resolve, problems).config(cls, tree, "")
    problems.stop_if_any()
    return options


def _finish(
    tree: MappingNode,
    overrides: Sequence[str],
    problems: Problems,
    budget: Budget,
    resolve: Resolve,
    unmet: Unmet,
    name: str,
) -> Recipe:
    over = read_overrides(overrides, problems, budget)
    if over is not None:
        merged = merge(tree, over, problems, Outline(Recipe, None, resolve))
        assert isinstance(merged, MappingNode)
        tree = merged
    tree = complete(tree, problems, resolve)
    structure = Structure(resolve, problems)
    recipe = structure.config(Recipe, tree, "", own=["extends"])
    _require(structure, tree, unmet)
    problems.stop_if_any()
    return attrs.evolve(recipe, name=name, marks=structure.marks)


def _require(structure: Structure, tree: MappingNode, unmet: Unmet) -> None:
    """Notes what the recipe requires and is not there; it need not be in order otherwise."""
    given = structure.field(fields_of(Recipe)["requires"], tree, "requires", "")
    for index, text in enumerate(given if isinstance(given, tuple) else ()):
        path = f"requires.{index}"
        try:
            problem = unmet(text)
        except RecipeError as error:
            for fault in error.problems:
                structure.problems.add(path, fault.message, structure.marks[path], fault.hint)
        else:
            if problem is not None:
                structure.problems.absent.append(
                    Problem(f"{path}: {problem.message}", structure.marks[path], problem.hint)
                )


def _name(path: str) -> str:
    """The name of a run of this recipe: the file's own, without what could lead elsewhere or upset a terminal."""
    stem = "".join(character if character.isprintable() else "_" for character in PurePath(path).stem)
    return stem.strip(". ") or "recipe"
