"""Conformance of every standard component with the plugin contract, with default and with other options."""

from __future__ import annotations

from typing import Any

import pytest

from ni_framework.registry.resolve import resolve_component
from ni_framework.testing.conform import run_checks
from ni_framework.testing.harness.case import Case
from ni_framework.testing.sandbox.imports import check_imports
from ni_framework.testing.selection import select_entries

pytestmark = pytest.mark.slow

OWN_COMPONENTS = select_entries("ni-framework")
MORE_OPTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("embedding", "separate", {"signatures": "frozen", "codes": "frozen"}),
    ("router", "kernel", {"truncation": 0.8, "learn_bandwidth": False}),
    ("router", "gumbel_kernel", {"hard": True, "evaluation": "sample"}),
    ("router", "stochastic_kernel", {"evaluation": "threshold"}),
    ("router", "quantised", {"what": "both", "inner": "straight_through_kernel"}),
    ("router", "function_dropout", {"once": True, "inner": {"use": "quantised", "inner": "unnormalised_kernel"}}),
    *(("body", "lines_of_code", {"residual": residual, "lines": 2}) for residual in ("modulated", "gating", "vanilla")),
    *(
        ("body", "lines_of_code", {"positions": positions})
        for positions in ("shared", "dot", "sep_sum", "seq_sum", "absolute")
    ),
    *(("body", "lines_of_code", {"linear": linear, "hidden": 7}) for linear in ("gated", "hyper")),
    ("input", "patches", {"positions": "absolute", "image": [3, 4, 8], "patch": 4}),
    ("input", "entities", {"positions": "absolute"}),
    ("head", "classify", {"shared_cls": True, "label_smoothing": 0.1}),
]


@pytest.fixture(scope="module", autouse=True)
def shared_import_worker() -> None:
    """Checks all imports in one process, which is faster than a process for each."""
    check_imports(sorted({resolve_component(entry.kind, entry.name).__module__ for entry in OWN_COMPONENTS}))


@pytest.mark.parametrize("entry", OWN_COMPONENTS, ids=lambda entry: f"{entry.kind}/{entry.name}")
def test_own_component(entry: Any) -> None:
    check_conformance(entry.kind, entry.name, {})


@pytest.mark.parametrize(("kind", "name", "options"), MORE_OPTIONS)
def test_own_component_with_other_options(kind: str, name: str, options: dict[str, Any]) -> None:
    check_conformance(kind, name, options)


def check_conformance(kind: str, name: str, options: dict[str, Any]) -> None:
    outcomes = list(run_checks(Case(resolve_component(kind, name), options)))
    assert [outcome.text for outcome in outcomes if outcome.verdict == "failed"] == []
    assert sum(outcome.verdict == "passed" for outcome in outcomes) >= (4 if kind == "data" else 11)
