"""A check: a named property that components must have, why it matters, and how to fix a failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from traceback import walk_tb
from typing import Literal

from attrs import field, frozen

from ni_framework.errors import NIError
from ni_framework.options import COMPONENT_KINDS
from ni_framework.testing.failures import Failure, NotApplicable
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.invocation import can_be_called

# The kinds of components that are torch modules.
MODULE_KINDS = tuple(kind for kind in COMPONENT_KINDS if kind != "data")


@frozen
class Outcome:
    """The result of one check; "excused" means that the check does not apply, for the reason in `message`."""

    check: Check
    verdict: Literal["passed", "failed", "excused"]
    message: str = ""

    @property
    def text(self) -> str:
        """The failure, why it matters, and how to fix it."""
        return f"{self.check.name}: {self.message}\n  why: {self.check.why}\n  fix: {self.check.fix}"


@frozen
class Check:
    """One property that components of some kinds must have.

    Attributes:
        name: The name of the check.
        kinds: The kinds of components that it applies to.
        why: Why the property matters.
        fix: What usually fixes a failure.
        implementation: Tests a case; raises `Failure`, or `NotApplicable` if the case needs no test.
        needs_call: Whether the check builds and calls the component. If that fails, only the check `runs` reports it.
    """

    name: str
    kinds: tuple[str, ...]
    why: str
    fix: str
    implementation: Callable[[Case], None] = field(repr=False)
    needs_call: bool = True

    def run(self, case: Case) -> Outcome:
        """Runs the check; any exception that the component raises is a failure."""
        if self.needs_call and not can_be_called(case):
            return Outcome(self, "excused", "not checked, because the component cannot be built or called")
        try:
            self.implementation(case)
        except NotApplicable as skipped:
            return Outcome(self, "excused", str(skipped))
        except (Failure, NIError) as error:
            return Outcome(self, "failed", str(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Third-party code may even raise SystemExit.
            message = str(error).strip() or "no message"
            return Outcome(self, "failed", f"raises {type(error).__name__}: {message}{fault_location(error, case.cls)}")
        return Outcome(self, "passed")

    def run_in_pytest(self, case: Case) -> None:
        """Runs the check in pytest: raises `Failure`, and skips the test if the check does not apply."""
        import pytest

        outcome = self.run(case)
        if outcome.verdict == "excused":
            pytest.skip(outcome.message)
        if outcome.verdict == "failed":
            raise Failure(outcome.text)


def fault_location(error: BaseException, cls: type) -> str:
    """Returns the last line of the component's own file in a traceback, as " (swirl.py, line 12)"; "" if there is none."""
    component_file, location = str(getattr(sys.modules.get(cls.__module__), "__file__", "")), ""
    for frame, line in walk_tb(error.__traceback__):
        if frame.f_code.co_filename == component_file:
            location = f" ({os.path.basename(component_file)}, line {line})"
    return location


# All checks by name, in the order in which they run.
CHECKS: dict[str, Check] = {}


def conformance_check(
    *kinds: str, why: str, fix: str, needs_call: bool = True
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Registers a function as a check under its name.

    Args:
        *kinds: The kinds of components that the check applies to; all kinds if there are none.
        why: Why the property matters.
        fix: What usually fixes a failure.
        needs_call: Whether the check builds and calls the component.
    """

    def register(implementation: Callable[[Case], None]) -> Callable[[Case], None]:
        name = implementation.__name__.rstrip("_")
        CHECKS[name] = Check(name, kinds or COMPONENT_KINDS, why, fix, implementation, needs_call)
        return implementation

    return register
