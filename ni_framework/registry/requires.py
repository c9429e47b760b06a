"""What a recipe requires to be installed. It can require, never enable."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement

from ni_framework.errors import PluginError, RecipeError
from ni_framework.recipe import Recipe


def check_requires(recipe: Recipe) -> None:
    """Raises `RecipeError` for an entry of `requires` that is no requirement, `PluginError` for one that is not met."""
    malformed, unmet = [], []
    for index, text in enumerate(recipe.requires):
        path = f"requires.{index}"
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            malformed.append(recipe.problem(path, f"must be a requirement such as 'ni-swirl>=0.1', not '{text}'"))
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            unmet.append(recipe.problem(path, f"{requirement.name} is not installed", f"pip install '{text}'"))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            unmet.append(
                recipe.problem(path, f"{requirement.name} {version} does not meet {text}", f"pip install '{text}'")
            )
    if malformed:
        raise RecipeError(malformed + unmet)
    if unmet:
        raise PluginError(unmet)
