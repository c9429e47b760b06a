"""Recipes read and checked against the installed components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

from ni_framework import recipe as recipes
from ni_framework.errors import PluginError, Problem, RecipeError
from ni_framework.registry.catalog import installed_catalog
from ni_framework.registry.file_plugins import plugin_files
from ni_framework.registry.requirements import check_requirement, reinstall_command

if TYPE_CHECKING:
    from ni_framework.recipe import Recipe


def load_recipe(path: str | PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, applies overrides (`key.path=value`), and checks everything against the installed components.

    Args:
        path: The YAML file.
        overrides: Changes as `key.path=value`.

    Returns:
        The recipe, checked and complete.

    Raises:
        RecipeError: The recipe is invalid; all problems at once, each with its place.
        PluginError: An installed component is broken, or a required one is missing.
    """
    _import_plugin_files()
    return recipes.load(path, overrides, resolve=_resolve_config, check_requirement=check_requirement)


def load_recipe_text(
    text: str,
    overrides: Sequence[str] = (),
    name: str = "recipe",
    origins: Mapping[tuple[str, str], tuple[str, str]] | None = None,
) -> Recipe:
    """Reads the recipe in a text, as `load_recipe` does for a file; `extends` is rejected.

    Args:
        text: The recipe as YAML.
        overrides: Changes as `key.path=value`.
        name: Used in messages instead of a file name, and as the name of the recipe.
        origins: (kind, name) of each component -> the distribution and version that provided it when the text was written.
            A missing component listed there raises `PluginError` with the pip command instead of `RecipeError`.
    """

    _import_plugin_files()

    def resolve(kind: str, component: str) -> type:
        try:
            return _resolve_config(kind, component)
        except RecipeError as error:
            if not origins or (kind, component) not in origins:
                raise
            distribution, version = origins[kind, component]
            missing = "which is not installed here" if version else "a file that is not given"
            message = f"{kind} `{component}` came from {f'{distribution} {version}'.strip()}, {missing}"
            raise PluginError([Problem(message, hint=reinstall_command(distribution, version))]) from error

    return recipes.loads(text, overrides, resolve=resolve, check_requirement=check_requirement, name=name)


def _import_plugin_files() -> None:
    """Raises the error of a broken plugin file once, before it would be repeated for every component of the recipe."""
    if plugin_files():
        installed_catalog()


def _resolve_config(kind: str, name: str) -> type:
    # Imported here because it imports torch, which is needed only once a component is named.
    from ni_framework.registry.resolve import resolve_config

    return resolve_config(kind, name)
