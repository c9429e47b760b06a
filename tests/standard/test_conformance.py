"""Every component of our own has what the contract asks of a stranger's, with its defaults and with its other ways."""

from __future__ import annotations

from typing import Any

import pytest

from ni_framework.registry.resolve import component
from ni_framework.testing.conform import outcomes
from ni_framework.testing.harness.case import Case
from ni_framework.testing.sandbox.imports import watch_imports
from ni_framework.testing.selection import selected

OWN = selected("ni-framework")
MORE: list[tuple[str, str, dict[str, Any]]] = [
    ("embedding", "separate", {"signatures": "frozen", "codes": "frozen"}),
    ("router", "kernel", {"truncation": 0.8, "learn_bandwidth": False}),
    ("router", "gumbel_kernel", {"hard": True, "evaluation": "sample"}),
    ("router", "stochastic_kernel", {"evaluation": "threshold"}),
    ("router", "quantised", {"what": "both", "inner": "straight_through_kernel"}),
    ("router", "function_dropout", {"once": True, "inner": {"use": "quantised", "inner": "unnormalised_kernel"}}),
    *(("body", "lines_of_code", {"residual": residual, "lines": 2}) for residual in ("modulated", "gating", "vanilla")),
    *(("body", "lines_of_code", {"positions": of}) for of in ("shared", "dot", "sep_sum", "seq_sum", "absolute")),
    *(("body", "lines_of_code", {"linear": of, "hidden": 7}) for of in ("gated", "hyper")),
    ("input", "patches", {"positions": "absolute", "image": [3, 4, 8], "patch": 4}),
    ("input", "entities", {"positions": "absolute"}),
    ("head", "classify", {"shared_cls": True, "label_smoothing": 0.1}),
]


@pytest.fixture(scope="module", autouse=True)
def watched() -> None:
    """All imports are looked at in one process."""
    watch_imports(sorted({component(entry.kind, entry.name).__module__ for entry in OWN}))


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: f"{entry.kind}/{entry.name}")
def test_own_component(entry: Any) -> None:
    conforms(entry.kind, entry.name, {})


@pytest.mark.parametrize(("kind", "name", "options"), MORE)
def test_other_ways(kind: str, name: str, options: dict[str, Any]) -> None:
    conforms(kind, name, options)


def conforms(kind: str, name: str, options: dict[str, Any]) -> None:
    found = list(outcomes(Case(component(kind, name), options)))
    assert [outcome.text for outcome in found if outcome.verdict == "failed"] == []
    assert sum(outcome.verdict == "passed" for outcome in found) >= (4 if kind == "data" else 11)
