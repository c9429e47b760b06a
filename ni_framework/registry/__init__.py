"""Names to classes: what is installed, which of it a recipe means, and recipes checked against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

from ni_framework import recipe as recipes
from ni_framework.errors import PluginError, Problem, RecipeError
from ni_framework.registry.catalog import installed
from ni_framework.registry.discover import Entry, discover
from ni_framework.registry.requirements import regained, unmet

if TYPE_CHECKING:
    from ni_framework.recipe import Recipe

__all__ = ["Entry", "discover", "installed", "load_recipe", "recipe_in"]


def load_recipe(path: str | PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, applies overrides (`key.path=value`), and checks everything against the installed components.

    Raises `RecipeError` with all problems at once, `PluginError` where an installed component is at fault.
    """
    return recipes.load(path, overrides, resolve=_resolve, unmet=unmet)


def recipe_in(
    text: str,
    overrides: Sequence[str] = (),
    name: str = "recipe",
    origins: Mapping[tuple[str, str], tuple[str, str]] | None = None,
) -> Recipe:
    """The recipe in a text, which extends nothing; otherwise like `load_recipe`. `name` stands in messages for the file's.

    `origins` tells from which distribution and version the components of a kind and name came when it was written: one that
    nobody provides any more is then an absent plugin and no mistake of the recipe's.
    """

    def resolve(kind: str, component: str) -> type:
        try:
            return _resolve(kind, component)
        except RecipeError as error:
            if not origins or (kind, component) not in origins:
                raise
            distribution, version = origins[kind, component]
            missing = "which is not installed here" if version else "a file that is not given"
            message = f"{kind} `{component}` came from {f'{distribution} {version}'.strip()}, {missing}"
            raise PluginError([Problem(message, hint=regained(distribution, version))]) from error

    return recipes.loads(text, overrides, resolve=resolve, unmet=unmet, name=name)


def _resolve(kind: str, name: str) -> type:
    from ni_framework.registry.resolve import config_of  # imports torch: only once a component is named

    return config_of(kind, name)
