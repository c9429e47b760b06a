"""Reads a file and overrides into a checked recipe: parse, extend, override, complete the scripts, check the values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import attrs

from ni_framework.errors import Mark, Problem, RecipeError
from ni_framework.recipe.parsing.nodes import MappingNode
from ni_framework.recipe.parsing.parser import NodeBudget
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.source import source_from_text
from ni_framework.recipe.parsing.wording import escape_unprintable
from ni_framework.recipe.resolve.extends import read_files, read_tree
from ni_framework.recipe.resolve.merge import merge
from ni_framework.recipe.resolve.overrides import read_overrides
from ni_framework.recipe.resolve.schema_hints import SchemaHint
from ni_framework.recipe.resolve.scripts import complete_scripts
from ni_framework.recipe.schema import Recipe
from ni_framework.recipe.validate.fields import ConfigResolver, RequirementChecker, fields_of
from ni_framework.recipe.validate.structure import StructureReader


def _skip_requirement_check(_: str) -> None:
    """Accepts every requirement without looking for it."""


def load(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    resolve: ConfigResolver,
    check_requirement: RequirementChecker = _skip_requirement_check,
) -> Recipe:
    """Reads the recipe in a file: laid over the recipe that it extends, with the overrides laid over it, complete and checked.

    Args:
        path: The file.
        overrides: Changes as `key.path=value`; later ones win.
        resolve: Gives the `Config` class of a component from its kind and name.
        check_requirement: Gives the problem with an entry of `requires`, None if it is met.

    Raises:
        RecipeError: with every problem of the recipe.
        PluginError: if the recipe is correct and a plugin that it needs is broken or absent.
    """
    path = os.fspath(path)
    if "\0" in path:
        raise RecipeError(
            [Problem("is not the path of a file", Mark(escape_unprintable(path), 1, 1, "", numbered=False))]
        )
    problems, budget = Problems(), NodeBudget()
    tree = read_files(path, problems, budget, SchemaHint(Recipe, None, resolve))
    return _complete_recipe(tree, overrides, problems, budget, resolve, check_requirement, _recipe_name(path))


def loads(
    text: str,
    overrides: Sequence[str] = (),
    *,
    resolve: ConfigResolver,
    check_requirement: RequirementChecker = _skip_requirement_check,
    name: str = "recipe",
) -> Recipe:
    """Reads the recipe in a text, as `load` does for a file; `extends` is rejected.

    Args:
        text: The recipe as YAML.
        overrides: As for `load`.
        resolve: As for `load`.
        check_requirement: As for `load`.
        name: Used in messages instead of a file name, and as the name of the recipe.
    """
    problems, budget = Problems(), NodeBudget()
    tree = read_tree(source_from_text(name, text), problems, budget)
    if extends := tree.entries.get("extends"):
        raise RecipeError([Problem("extends: is only possible in a file, and this recipe is a text", extends.mark)])
    return _complete_recipe(tree, overrides, problems, budget, resolve, check_requirement, _recipe_name(name))


def load_options(cls: type, text: str, *, resolve: ConfigResolver) -> Any:
    """An instance of a component's `Config` from the YAML of its options, checked like the options in a recipe.

    Args:
        cls: The `Config` class.
        text: The options as YAML.
        resolve: As for `load`.
    """
    problems, budget = Problems(), NodeBudget()
    tree = read_tree(source_from_text("options", text), problems, budget)
    options = StructureReader(resolve, problems).read_config(cls, tree, "")
    problems.raise_if_any()
    return options


def _complete_recipe(
    tree: MappingNode,
    overrides: Sequence[str],
    problems: Problems,
    budget: NodeBudget,
    resolve: ConfigResolver,
    check_requirement: RequirementChecker,
    name: str,
) -> Recipe:
    override_tree = read_overrides(overrides, problems, budget)
    if override_tree is not None:
        merged = merge(tree, override_tree, problems, SchemaHint(Recipe, None, resolve))
        assert isinstance(merged, MappingNode)
        tree = merged
    tree = complete_scripts(tree, problems, resolve)
    structure = StructureReader(resolve, problems)
    recipe = structure.read_config(Recipe, tree, "", loader_keys=["extends"])
    _check_requirements(structure, tree, check_requirement)
    problems.raise_if_any()
    return attrs.evolve(recipe, name=name, marks=structure.marks)


def _check_requirements(structure: StructureReader, tree: MappingNode, check_requirement: RequirementChecker) -> None:
    """Records the requirements that are not met, also when the rest of the recipe has problems."""
    requirements = structure.read_field(fields_of(Recipe)["requires"], tree, "requires", "")
    for index, text in enumerate(requirements if isinstance(requirements, tuple) else ()):
        path = f"requires.{index}"
        try:
            problem = check_requirement(text)
        except RecipeError as error:
            for wrong in error.problems:
                structure.problems.add(path, wrong.message, structure.marks[path], wrong.hint)
        else:
            if problem is not None:
                structure.problems.missing_distributions.append(
                    Problem(f"{path}: {problem.message}", structure.marks[path], problem.hint)
                )


def _recipe_name(path: str) -> str:
    """The name of a run of this recipe: the file's stem, without characters that a path or a terminal could misread."""
    stem = "".join(character if character.isprintable() else "_" for character in PurePath(path).stem)
    return stem.strip(". ") or "recipe"
