"""What a recipe requires to be installed. It can require, never enable: nothing is imported for it."""

from __future__ import annotations

import shlex
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement

from ni_framework.errors import Problem, RecipeError


def unmet(text: str) -> Problem | None:
    """What keeps an entry of `requires` from being met, with the command that installs it; None where nothing does.

    It is read as pip reads it: one whose marker does not hold here asks for nothing, and extras ask for what the
    distribution says they need. Raises `RecipeError` for what is no requirement.
    """
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        message = f"must be a requirement such as 'ni-swirl>=0.1', not '{text}'"
        raise RecipeError([Problem(message)]) from None
    fault = _fault(requirement)
    return Problem(fault, hint=install_line(requirement)) if fault else None


def install_line(requirement: Requirement) -> str:
    """The command that installs what is required."""
    return f"pip install {shell_quoted(str(_unmarked(requirement)))}"


def regained(distribution: str, version: str, again: bool = False) -> str:
    """How to have what came from a distribution, or from a file, which has no version; `again` if it is there, and changed."""
    if not version:
        return f"--plugin {shlex.quote(distribution)}" + (", as it was then" if again else "")
    return f"pip install {'--force-reinstall ' if again else ''}{shell_quoted(f'{distribution}=={version}')}"


def shell_quoted(text: str) -> str:
    """A requirement as a shell takes it, in quotes whether it needs them or not, so that all look alike."""
    return shlex.quote(text) if "'" in text else f"'{text}'"


def _fault(requirement: Requirement) -> str | None:
    if not _applies(requirement):
        return None
    try:
        distribution = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(distribution.version, prereleases=True):
        asked = f"{requirement.name}{requirement.specifier}"
        return f"{requirement.name} {distribution.version} does not meet {asked}"
    for extra in sorted(requirement.extras):
        if extra not in (distribution.metadata.get_all("Provides-Extra") or ()):
            return f"{requirement.name} {distribution.version} has no extra `{extra}`"
        for needed in map(Requirement, distribution.requires or ()):
            if not _applies(needed) and _applies(needed, extra) and (fault := _fault(_unmarked(needed))):
                return f"its extra `{extra}` is not there: {fault}"
    return None


def _applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _unmarked(requirement: Requirement) -> Requirement:
    """A requirement whose marker holds here, without it."""
    bare = Requirement(str(requirement))
    bare.marker = None
    return bare
