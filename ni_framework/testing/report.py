"""Conformance of installed components, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen

from ni_framework.errors import PluginError
from ni_framework.registry import Entry
from ni_framework.testing.checks.check import Outcome
from ni_framework.testing.conform import outcomes
from ni_framework.testing.failures import Failure
from ni_framework.testing.sandbox.imports import watch_imports
from ni_framework.testing.selection import case_of


@frozen
class Report:
    """What the checks found of one component; `fault` where it could not be tried at all."""

    entry: Entry
    outcomes: tuple[Outcome, ...]
    fault: str | None = None

    @property
    def label(self) -> str:
        """The component by kind and name."""
        return f"{self.entry.kind}/{self.entry.name}"

    @property
    def failed(self) -> bool:
        """Whether it does not conform."""
        return self.fault is not None or any(of.verdict == "failed" for of in self.outcomes)

    @property
    def summary(self) -> str:
        """In a few words, as a listing shows it."""
        if self.fault is not None:
            return "not tried"
        passed, failed, excused = (
            sum(of.verdict == verdict for of in self.outcomes) for verdict in ("passed", "failed", "excused")
        )
        return ", ".join(
            f"{count} {verdict}"
            for count, verdict in ((passed, "passed"), (failed, "failed"), (excused, "excused"))
            if count or verdict == "passed"
        )

    @property
    def lines(self) -> list[str]:
        """The summary, and below it whatever did not pass."""
        head = f"{self.label} of {self.entry.source}: {self.summary}"
        excused = [f"{of.check.name}: excused, {of.message}" for of in self.outcomes if of.verdict == "excused"]
        return [head, *(f"  {line}" for line in [*self.failures, *excused])]

    @property
    def failures(self) -> list[str]:
        """What did not pass, with why and fix, in lines."""
        told = [of.text for of in self.outcomes if of.verdict == "failed"]
        return [line for text in [*([self.fault] if self.fault else []), *told] for line in text.splitlines()]

    @property
    def document(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "kind": self.entry.kind,
            "name": self.entry.name,
            "distribution": self.entry.distribution,
            "version": self.entry.version,
            "fault": self.fault,
            "checks": [
                {"name": of.check.name, "verdict": of.verdict, "message": of.message}
                | ({"why": of.check.why, "fix": of.check.fix} if of.verdict == "failed" else {})
                for of in self.outcomes
            ],
        }


def reports(entries: Sequence[Entry], tell: Callable[[str], None] = lambda _: None) -> list[Report]:
    """Tries installed components; `tell` hears of each before it is tried."""
    watch_imports(sorted({entry.module for entry in entries if not entry.is_one_file}))
    found = []
    for entry in entries:
        tell(f"{entry.kind}/{entry.name}")
        found.append(report_on(entry))
    return found


def report_on(entry: Entry) -> Report:
    """Tries one component."""
    try:
        case = case_of(entry)
        return Report(entry, tuple(outcomes(case)))
    except PluginError as error:
        return Report(entry, (), "; ".join(problem.message for problem in error.problems))
    except Failure as failure:
        return Report(entry, (), str(failure))
