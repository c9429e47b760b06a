"""A check: a named property of a component, why it matters, and what usually mends it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from traceback import walk_tb
from typing import Literal

from attrs import field, frozen

from ni_framework.errors import NIError
from ni_framework.options import KINDS
from ni_framework.testing.failures import Excused, Failure
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.invocation import can_be_called

PARTS = tuple(kind for kind in KINDS if kind != "data")  # those that are modules


@frozen
class Outcome:
    """What a check found."""

    check: Check
    verdict: Literal["passed", "failed", "excused"]
    message: str = ""

    @property
    def text(self) -> str:
        """What is wrong, why it matters, and what to do."""
        return f"{self.check.name}: {self.message}\n  why: {self.check.why}\n  fix: {self.check.fix}"


@frozen
class Check:
    """One property, tried on a case by calling `look`, which raises `Failure` or `Excused`."""

    name: str
    kinds: tuple[str, ...]
    why: str
    fix: str
    look: Callable[[Case], None] = field(repr=False)
    calls: bool = (
        True  # whether it builds and calls the component, so that it says nothing of one that cannot be called
    )

    def run(self, case: Case) -> Outcome:
        """Tries it; whatever the component raises is a failure of the check."""
        if self.calls and not can_be_called(case):
            return Outcome(self, "excused", "not tried, because the component cannot be built or called")
        try:
            self.look(case)
        except Excused as reason:
            return Outcome(self, "excused", str(reason))
        except (Failure, NIError) as fault:
            return Outcome(self, "failed", str(fault))
        except KeyboardInterrupt:
            raise
        except BaseException as fault:  # a stranger's code may even exit
            said = str(fault).strip() or "without a word"
            return Outcome(self, "failed", f"raises {type(fault).__name__}: {said}{place(fault, case.cls)}")
        return Outcome(self, "passed")

    def test(self, case: Case) -> None:
        """Tries it in pytest: raises `Failure`, and skips where it is excused."""
        import pytest

        outcome = self.run(case)
        if outcome.verdict == "excused":
            pytest.skip(outcome.message)
        if outcome.verdict == "failed":
            raise Failure(outcome.text)


def place(fault: BaseException, cls: type) -> str:
    """The last line of the component's own file that a fault passed through, as " (swirl.py, line 12)"; "" if none."""
    own, found = str(getattr(sys.modules.get(cls.__module__), "__file__", "")), ""
    for frame, line in walk_tb(fault.__traceback__):
        if frame.f_code.co_filename == own:
            found = f" ({os.path.basename(own)}, line {line})"
    return found


CHECKS: dict[str, Check] = {}
"""All checks by name, in the order in which they run."""


def check(
    *kinds: str, why: str, fix: str, calls: bool = True
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Registers a function as a check of these kinds (none: of all), under the function's name."""

    def register(look: Callable[[Case], None]) -> Callable[[Case], None]:
        name = look.__name__.rstrip("_")
        CHECKS[name] = Check(name, kinds or KINDS, why, fix, look, calls)
        return look

    return register
