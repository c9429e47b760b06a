"""Every error a user can meet: what happened, where, and what to do about it.

Each class carries the exit code that the command line ends with. Nothing else in the framework raises towards a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NIError(Exception):
    """Base of all errors that end a command with one clear message instead of a traceback."""

    exit_code = 1


class RunError(NIError):
    """A run that started and failed: data files absent, every pair closed at step 0, a loss that is not finite."""


class UsageError(NIError):
    """A call that makes no sense, whatever the files hold."""

    exit_code = 2


class CheckpointError(NIError):
    """A checkpoint that is absent, foreign, damaged or different from what was expected."""

    exit_code = 6


class FitError(NIError):
    """A model that does not fit the machine."""

    exit_code = 7


class OptionError(NIError):
    """A value that a component cannot work with, raised while the component is built.

    `option` names the component's own option ("patch"); "" means the component as a whole. Whoever builds the component
    knows where the recipe names it and turns this into a `RecipeError` with a place. `also` holds what else is wrong.
    """

    exit_code = 3

    def __init__(self, option: str, message: str, hint: str | None = None, also: Sequence[OptionError] = ()) -> None:
        super().__init__(f"{option}: {message}" if option else message)
        self.option, self.message, self.hint, self.also = option, message, hint, tuple(also)


@dataclass(frozen=True)
class Mark:
    """A place in a text: where its caret goes. `line` and `column` count from 1; `text` is the line itself."""

    source: str
    line: int
    column: int
    text: str
    numbered: bool = True  # an override on the command line has no line worth naming

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.numbered else self.source


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a recipe or an override: what, where, and what to do."""

    message: str
    mark: Mark | None = None
    hint: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.mark}: error: {self.message}" if self.mark else f"error: {self.message}"]
        if self.mark and self.mark.text.strip():
            text, column = _window(self.mark.text, self.mark.column - 1)
            # Tabs stay tabs under the caret line, so that both lines indent alike in any terminal.
            lead = "".join("\t" if character == "\t" else " " for character in text[:column])
            lines += [f"    {text}", f"    {lead}^"]
        if self.hint:
            lines.append(f"  help: {self.hint}")
        return "\n".join(lines)


def _window(text: str, column: int, width: int = 120) -> tuple[str, int]:
    """The part of a long line around the caret, control characters made visible, and the caret's place in it."""
    start = max(0, min(column - width // 2, len(text) - width))
    shown = text[start : start + width]
    visible = (character if character.isprintable() or character == "\t" else "\ufffd" for character in shown)
    return "".join(visible), column - start


class ProblemsError(NIError):
    """Several problems, all reported at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type, tuple[Sequence[Problem]]]:
        return type(self), (self.problems,)  # so that one may come from another process


class RecipeError(ProblemsError):
    """A recipe or an override that cannot be used: all of its problems, each with its place."""

    exit_code = 3


class PluginError(ProblemsError):
    """A plugin that is broken, doubled, not allowed, or required and absent."""

    exit_code = 4
