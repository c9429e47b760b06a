"""Reports on the conformance of installed components, as text and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen

from ni_framework.errors import PluginError
from ni_framework.registry import Entry
from ni_framework.testing.checks.check import Outcome
from ni_framework.testing.conform import run_checks
from ni_framework.testing.failures import Failure
from ni_framework.testing.sandbox.imports import check_imports
from ni_framework.testing.selection import load_case


@frozen
class ConformanceReport:
    """The outcomes of the checks of one component, or a `fault` if it could not be checked at all."""

    entry: Entry
    outcomes: tuple[Outcome, ...]
    fault: str | None = None

    @property
    def label(self) -> str:
        """The kind and the name of the component, such as "body/swirl"."""
        return f"{self.entry.kind}/{self.entry.name}"

    @property
    def has_failed(self) -> bool:
        """Whether the component does not conform."""
        return self.fault is not None or any(outcome.verdict == "failed" for outcome in self.outcomes)

    @property
    def summary(self) -> str:
        """The numbers of checks by verdict, as a listing shows them."""
        if self.fault is not None:
            return "not checked"
        passed, failed, excused = (
            sum(outcome.verdict == verdict for outcome in self.outcomes) for verdict in ("passed", "failed", "excused")
        )
        return ", ".join(
            f"{count} {verdict}"
            for count, verdict in ((passed, "passed"), (failed, "failed"), (excused, "excused"))
            if count or verdict == "passed"
        )

    @property
    def lines(self) -> list[str]:
        """The summary, followed by all checks that did not pass."""
        head = f"{self.label} of {self.entry.source}: {self.summary}"
        excused = [
            f"{outcome.check.name}: excused, {outcome.message}"
            for outcome in self.outcomes
            if outcome.verdict == "excused"
        ]
        return [head, *(f"  {line}" for line in [*self.failure_lines, *excused])]

    @property
    def failure_lines(self) -> list[str]:
        """The failures, each with why and fix, as lines."""
        texts = [outcome.text for outcome in self.outcomes if outcome.verdict == "failed"]
        return [line for text in [*([self.fault] if self.fault else []), *texts] for line in text.splitlines()]

    @property
    def document(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return {
            "kind": self.entry.kind,
            "name": self.entry.name,
            "distribution": self.entry.distribution,
            "version": self.entry.version,
            "fault": self.fault,
            "checks": [
                {"name": outcome.check.name, "verdict": outcome.verdict, "message": outcome.message}
                | ({"why": outcome.check.why, "fix": outcome.check.fix} if outcome.verdict == "failed" else {})
                for outcome in self.outcomes
            ],
        }


def check_components(
    entries: Sequence[Entry], on_progress: Callable[[str], None] = lambda _: None
) -> list[ConformanceReport]:
    """Checks installed components; `on_progress` is called with the label of each one before it is checked."""
    check_imports(sorted({entry.module for entry in entries if not entry.is_file_plugin}))
    results = []
    for entry in entries:
        on_progress(f"{entry.kind}/{entry.name}")
        results.append(check_component(entry))
    return results


def check_component(entry: Entry) -> ConformanceReport:
    """Checks one installed component."""
    try:
        case = load_case(entry)
        return ConformanceReport(entry, tuple(run_checks(case)))
    except PluginError as error:
        return ConformanceReport(entry, (), "; ".join(problem.message for problem in error.problems))
    except Failure as failure:
        return ConformanceReport(entry, (), str(failure))
