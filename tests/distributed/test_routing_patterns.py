"""Processes whose samples take different functions, or none: what one computes and another does not, adds up all the same."""

from __future__ import annotations

import pytest

from ni_framework.testing.workers.pool import Processes
from tests.helpers.engine_agreement import agree
from tests.helpers.engine_cases import Case

PRIVATE = "model.body={use: experts, heads: 2, key: 3}"
ROUTINGS = ["apart", "all but one process", "all to one", "nowhere"]
STAGES = (1, 2, 3)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_dense_and_packed(two: Processes, routing: str) -> None:
    both = [Case((f"model.execution={layout}",), STAGES, routing=routing, steps=4) for layout in ("dense", "packed")]
    agree(two, both)


def test_functions_with_weights_of_their_own(two: Processes) -> None:
    agree(
        two,
        [
            Case((PRIVATE, "model.scripts=2"), STAGES, routing="apart", steps=6),
            Case((PRIVATE, "model.execution=packed", "train.recompute=script"), STAGES, routing="drawn", steps=6),
        ],
    )


@pytest.mark.parametrize("routing", ["apart", "drawn"])
def test_functions_that_are_passed_over(two: Processes, routing: str) -> None:
    """A body that breaks the contract: what nobody takes has no gradient, and what is taken has one at another time."""
    agree(two, [Case(("model.body=branching", "model.scripts=2", "model.iterations=1"), routing=routing, steps=6)])


def test_layouts_that_differ(two: Processes) -> None:
    """Which layout is faster is seen by each process for itself."""
    agree(two, [Case(("model.execution=auto", "model.scripts=2"), STAGES, routing="drawn", seed=1)])


def test_in_four_processes(four: Processes) -> None:
    agree(four, [Case(("model.execution=packed", "model.scripts=2"), STAGES, routing="drawn", steps=6)])


@pytest.mark.parametrize("halting", ["{use: act, bias: -1.0}", "{use: ponder}"])
def test_iterations_that_differ(two: Processes, halting: str) -> None:
    case = Case((f"model.halting={halting}", "model.execution=packed", "model.iterations=4"), STAGES, halts=True)
    (found,) = agree(two, [case])
    first, second = ([of_stage["iterations"] for of_stage in of_rank] for of_rank in found)
    assert all(less < more for less, more in zip(first, second, strict=True)), (first, second)


@pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.soak)])
def test_drawn(two: Processes, times: int) -> None:
    """Each step's functions are drawn for each process."""
    for seed in range(times):
        body = [PRIVATE, "model.body=branching", "model.body.linear=gated"][seed % 3]
        layout = "packed" if seed % 2 else "dense"
        overrides = body, f"model.execution={layout}", f"model.scripts={1 + seed % 3}"
        agree(two, [Case(overrides, STAGES, routing="drawn", seed=seed)])
