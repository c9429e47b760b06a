"""All errors that a user can meet: what happened, where, and what to do about it.

Each class has the exit code with which the command line ends. The framework raises nothing else towards a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NIError(Exception):
    """Base of all errors that end a command with one clear message instead of a traceback."""

    exit_code = 1


class RunError(NIError):
    """A run that started and failed: data files are absent, every pair is closed at step 0, a loss is not finite."""


class UsageError(NIError):
    """A call that makes no sense, whatever the files contain."""

    exit_code = 2


class CheckpointError(NIError):
    """A checkpoint that is absent, damaged, not written by this framework, or different from what was expected."""

    exit_code = 6


class FitError(NIError):
    """A model that does not fit into the memory of the machine."""

    exit_code = 7


class OptionError(NIError):
    """A value that a component cannot work with, raised while the component is built.

    The caller that builds the component knows where the recipe names it, and turns this into a `RecipeError` with a place.

    Args:
        option: The component's own option ("patch"); "" means the component as a whole.
        message: What is wrong with the value, as a phrase that follows the option's name.
        hint: What to do about it.
        others: Further errors of the same component, to be reported together with this one.
    """

    exit_code = 3

    def __init__(self, option: str, message: str, hint: str | None = None, others: Sequence[OptionError] = ()) -> None:
        super().__init__(f"{option}: {message}" if option else message)
        self.option, self.message, self.hint, self.others = option, message, hint, tuple(others)


@dataclass(frozen=True)
class Mark:
    """A place in a text, where a caret is printed. `line` and `column` count from 1; `text` is the line itself."""

    source: str
    line: int
    column: int
    text: str
    numbered: bool = True  # False for an override on the command line, which has no line number to show

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.numbered else self.source


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a recipe or an override: what, where, and what to do."""

    message: str
    mark: Mark | None = None
    hint: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.mark}: error: {self.message}" if self.mark else f"error: {self.message}"]
        if self.mark and self.mark.text.strip():
            text, column = _visible_window(self.mark.text, self.mark.column - 1)
            # Tabs stay tabs in the line of the caret, so that both lines are indented alike in any terminal.
            indent = "".join("\t" if character == "\t" else " " for character in text[:column])
            lines += [f"    {text}", f"    {indent}^"]
        if self.hint:
            lines.append(f"  help: {self.hint}")
        return "\n".join(lines)


def _visible_window(text: str, column: int, width: int = 120) -> tuple[str, int]:
    """The part of a long line around the caret, with control characters made visible, and the caret's column in it."""
    start = max(0, min(column - width // 2, len(text) - width))
    window = text[start : start + width]
    visible = (character if character.isprintable() or character == "\t" else "\ufffd" for character in window)
    return "".join(visible), column - start


class ProblemsError(NIError):
    """Several problems that are reported together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type, tuple[Sequence[Problem]]]:
        # Pickling calls the class with its problems, so that an error can be passed between processes.
        return type(self), (self.problems,)


class RecipeError(ProblemsError):
    """A recipe or an override that cannot be used: all of its problems, each with its place."""

    exit_code = 3


class PluginError(ProblemsError):
    """A plugin that is broken, provided twice, not allowed, or required and absent."""

    exit_code = 4
