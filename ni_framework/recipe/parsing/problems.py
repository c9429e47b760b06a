"""Collects problems, so that all of them are reported together."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ni_framework.errors import Mark, PluginError, Problem, RecipeError

# More is not useful to anybody, and a hostile file could cause millions.
MAX_PROBLEMS = 1000


_SCRIPT = re.compile(r"model\.scripts\.\d+\.")


class Problems:
    """The problems found so far, of the recipe and of the plugins that it needs.

    Scripts inherit the model's own keys, so one wrong key is found again in every script; it is recorded once.
    """

    def __init__(self) -> None:
        self.recipe_problems: list[Problem] = []
        self.plugin_problems: list[Problem] = []
        # Components that no installed distribution provides.
        self.unknown_components: list[Problem] = []
        # Distributions that the recipe requires and that are not installed; they may provide those components.
        self.missing_distributions: list[Problem] = []
        self._reported: set[tuple[str, str, Mark | None]] = set()

    @property
    def is_full(self) -> bool:
        """Whether more than `MAX_PROBLEMS` problems were found."""
        return len(self.recipe_problems) > MAX_PROBLEMS

    def add(self, path: str, message: str, mark: Mark | None, hint: str | None = None, *, absent: bool = False) -> None:
        """Records a problem with the value at a key path.

        Args:
            path: The key path; "" if the problem has none.
            message: What is wrong, as a phrase that follows the key path.
            mark: The place of the problem.
            hint: What to do about it.
            absent: Whether the recipe does not give that value, so that the mark is only the mapping around it.
        """
        if self._is_new(path, message, None if absent else mark):
            self.recipe_problems.append(Problem(f"{path}: {message}" if path else message, mark, hint))

    def add_plugin(
        self, path: str, message: str, mark: Mark | None, hint: str | None = None, *, absent: bool = False
    ) -> None:
        """Records a problem with the plugin that a key path names; arguments as for `add`."""
        if self._is_new(path, message, None if absent else mark):
            self.plugin_problems.append(Problem(f"{path}: {message}", mark, hint))

    def add_unknown(self, path: str, message: str, mark: Mark | None, hint: str | None, *, absent: bool) -> None:
        """Records that no installed distribution provides the component at a key path; arguments as for `add`."""
        if self._is_new(path, message, None if absent else mark):
            self.unknown_components.append(Problem(f"{path}: {message}", mark, hint))

    def _is_new(self, path: str, message: str, mark: Mark | None) -> bool:
        key = (_SCRIPT.sub("model.", path), message, mark)
        if key in self._reported:
            return False
        self._reported.add(key)
        return True

    def raise_if_any(self) -> None:
        """Raises all recorded problems, as a `PluginError` only if the recipe itself is correct.

        A recipe with an unknown component counts as correct if it requires a distribution that is not installed, because
        that distribution may provide the component.
        """
        found = _truncate_problems(
            _sort_problems(
                [*self.recipe_problems, *self.unknown_components, *self.plugin_problems, *self.missing_distributions]
            )
        )
        if self.recipe_problems or (self.unknown_components and not self.missing_distributions):
            raise RecipeError(found)
        if found:
            raise PluginError(found)


def _sort_problems(problems: Sequence[Problem]) -> list[Problem]:
    def place(problem: Problem) -> tuple[str, int, int]:
        mark = problem.mark
        return (mark.source, mark.line, mark.column) if mark else ("", 0, 0)

    return sorted(dict.fromkeys(problems), key=place)


def _truncate_problems(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    return [*problems[:MAX_PROBLEMS], Problem("there are more problems than are shown here")]
