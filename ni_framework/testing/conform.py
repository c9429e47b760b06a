"""Conformance: all checks of one component, as outcomes or as a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ni_framework.contracts import Sizes
from ni_framework.testing.checks import checks_of
from ni_framework.testing.checks.check import Check, Outcome
from ni_framework.testing.harness.case import Case


def outcomes(case: Case) -> Iterator[Outcome]:
    """What each check of the component's kind finds, one after the other."""
    for check in checks_of(case.kind).values():
        yield check.run(case)


def conformance(component: type, sizes: Sizes | None = None, /, **options: Any) -> Callable[[Check], None]:
    """A test for pytest that tries every check on a component, built with these options.

        test_swirl = conformance(Swirl, strength=2.0)

    Options are given as YAML would give them. `sizes` are for components that cannot work with the usual ones.
    """
    import pytest

    case = Case(component, options, sizes)

    @pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in checks_of(case.kind).items()])
    def test(check: Check) -> None:
        check.test(case)

    return test
