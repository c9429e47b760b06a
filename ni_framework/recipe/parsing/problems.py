"""Collects what is wrong, so that a reader of a recipe learns everything at once."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ni_framework.errors import Mark, PluginError, Problem, RecipeError

LIMIT = 1000  # nobody reads more, and a hostile file could ask for millions


_SCRIPT = re.compile(r"model\.scripts\.\d+\.")


class Problems:
    """The problems found so far, of the recipe and of the plugins it needs.

    Scripts inherit the model's own keys, so one wrong key is met again in every script: it is noted once.
    """

    def __init__(self) -> None:
        self.recipe: list[Problem] = []
        self.plugin: list[Problem] = []
        self.unknown: list[Problem] = []  # components that nobody provides
        self.absent: list[Problem] = []  # distributions that the recipe requires, and that would
        self._told: set[tuple[str, str, Mark | None]] = set()

    @property
    def full(self) -> bool:
        """Whether more problems than anybody reads were found."""
        return len(self.recipe) > LIMIT

    def add(self, path: str, message: str, mark: Mark | None, hint: str | None = None, *, absent: bool = False) -> None:
        """Notes what is wrong with the value at a key path; `absent` where the recipe does not give that value."""
        if self._is_new(path, message, None if absent else mark):
            self.recipe.append(Problem(f"{path}: {message}" if path else message, mark, hint))

    def add_plugin(
        self, path: str, message: str, mark: Mark | None, hint: str | None = None, *, absent: bool = False
    ) -> None:
        """Notes what is wrong with the plugin that a key path asks for."""
        if self._is_new(path, message, None if absent else mark):
            self.plugin.append(Problem(f"{path}: {message}", mark, hint))

    def add_unknown(self, path: str, message: str, mark: Mark | None, hint: str | None, *, absent: bool) -> None:
        """Notes that nobody provides the component at a key path."""
        if self._is_new(path, message, None if absent else mark):
            self.unknown.append(Problem(f"{path}: {message}", mark, hint))

    def _is_new(self, path: str, message: str, mark: Mark | None) -> bool:
        told = (_SCRIPT.sub("model.", path), message, mark)
        if told in self._told:
            return False
        self._told.add(told)
        return True

    def stop_if_any(self) -> None:
        """Raises everything noted so far; a `PluginError` only where the recipe itself is in order.

        It is in order if it requires a distribution that is absent: that is why a component is unknown.
        """
        found = _capped(_sorted([*self.recipe, *self.unknown, *self.plugin, *self.absent]))
        if self.recipe or (self.unknown and not self.absent):
            raise RecipeError(found)
        if found:
            raise PluginError(found)


def _sorted(problems: Sequence[Problem]) -> list[Problem]:
    def place(problem: Problem) -> tuple[str, int, int]:
        mark = problem.mark
        return (mark.source, mark.line, mark.column) if mark else ("", 0, 0)

    return sorted(dict.fromkeys(problems), key=place)


def _capped(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= LIMIT:
        return problems
    return [*problems[:LIMIT], Problem("there are more problems than are shown here")]
