"""Runs all conformance checks of one component, as outcomes or as a pytest test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ni_framework.contracts import Sizes
from ni_framework.testing.checks import checks_for_kind
from ni_framework.testing.checks.check import Check, Outcome
from ni_framework.testing.harness.case import Case


def run_checks(case: Case) -> Iterator[Outcome]:
    """Runs the checks of the component's kind one after the other, and yields their outcomes."""
    for check in checks_for_kind(case.kind).values():
        yield check.run(case)


def conformance(component: type, sizes: Sizes | None = None, /, **options: Any) -> Callable[[Check], None]:
    """Makes a pytest test that runs every check on a component.

        test_swirl = conformance(Swirl, strength=2.0)

    Args:
        component: The class of the component.
        sizes: The sizes to build it with, if it does not work with the default ones.
        **options: The options of the component, with values as in YAML.

    Returns:
        A test function with one parameter for each check.
    """
    import pytest

    case = Case(component, options, sizes)

    @pytest.mark.parametrize(
        "check", [pytest.param(check, id=name) for name, check in checks_for_kind(case.kind).items()]
    )
    def test(check: Check) -> None:
        check.run_in_pytest(case)

    return test
