"""Checks what a recipe requires to be installed. A requirement enables nothing, and nothing is imported for it."""

from __future__ import annotations

import shlex
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement

from ni_framework.errors import Problem, RecipeError


def check_requirement(text: str) -> Problem | None:
    """Why an entry of `requires` is not met, with the command that installs it; None if it is met.

    It is read as pip reads it: a requirement whose marker does not apply here is met, and an extra requires the distributions
    that the metadata list for it. Raises `RecipeError` for a text that is not a requirement.
    """
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        message = f"must be a requirement such as 'ni-swirl>=0.1', not '{text}'"
        raise RecipeError([Problem(message)]) from None
    fault = _find_requirement_fault(requirement)
    return Problem(fault, hint=install_command(requirement)) if fault else None


def install_command(requirement: Requirement) -> str:
    """The pip command that installs a requirement."""
    return f"pip install {quote_for_shell(str(_without_marker(requirement)))}"


def reinstall_command(distribution: str, version: str, changed: bool = False) -> str:
    """How to get the plugin that a checkpoint was saved with.

    Args:
        distribution: The name of the distribution, or the path of a single-file plugin.
        version: Its version; "" for a file.
        changed: Whether it is available, but has changed since then.
    """
    if not version:
        return f"--plugin {shlex.quote(distribution)}" + (", as it was then" if changed else "")
    return f"pip install {'--force-reinstall ' if changed else ''}{quote_for_shell(f'{distribution}=={version}')}"


def quote_for_shell(text: str) -> str:
    """A requirement quoted for a shell; always with quotes, so that all of them look alike."""
    return shlex.quote(text) if "'" in text else f"'{text}'"


def _find_requirement_fault(requirement: Requirement) -> str | None:
    if not _marker_applies(requirement):
        return None
    try:
        distribution = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(distribution.version, prereleases=True):
        required = f"{requirement.name}{requirement.specifier}"
        return f"{requirement.name} {distribution.version} does not meet {required}"
    for extra in sorted(requirement.extras):
        if extra not in (distribution.metadata.get_all("Provides-Extra") or ()):
            return f"{requirement.name} {distribution.version} has no extra `{extra}`"
        for needed in map(Requirement, distribution.requires or ()):
            if (
                not _marker_applies(needed)
                and _marker_applies(needed, extra)
                and (fault := _find_requirement_fault(_without_marker(needed)))
            ):
                return f"its extra `{extra}` is not complete: {fault}"
    return None


def _marker_applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _without_marker(requirement: Requirement) -> Requirement:
    """A requirement without its marker."""
    bare = Requirement(str(requirement))
    bare.marker = None
    return bare
