"""Names to classes: what is installed, which of it a recipe means, and recipes checked against it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from ni_framework import recipe as recipes
from ni_framework.registry.catalog import installed
from ni_framework.registry.discover import Entry, discover
from ni_framework.registry.requires import check_requires

if TYPE_CHECKING:
    from ni_framework.recipe import Recipe

__all__ = ["Entry", "discover", "installed", "load_recipe", "recipe_in"]


def load_recipe(path: str | PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, applies overrides (`key.path=value`), and checks everything against the installed components.

    Raises `RecipeError` with all problems at once, `PluginError` where an installed component is at fault.
    """

    recipe = recipes.load(path, overrides, resolve=_resolve)
    check_requires(recipe)
    return recipe


def recipe_in(text: str, overrides: Sequence[str] = (), name: str = "recipe") -> Recipe:
    """The recipe in a text, which extends nothing; otherwise like `load_recipe`. `name` stands in messages for the file's."""
    recipe = recipes.loads(text, overrides, resolve=_resolve, name=name)
    check_requires(recipe)
    return recipe


def _resolve(kind: str, name: str) -> type:
    from ni_framework.registry.resolve import config_of  # imports torch: only once a component is named

    return config_of(kind, name)
