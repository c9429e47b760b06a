"""Ranks whose samples use different functions, or none: gradients that only some ranks compute are summed correctly."""

from __future__ import annotations

import pytest

from ni_framework.testing.workers.pool import WorkerPool
from tests.helpers.engine_agreement import assert_engines_agree
from tests.helpers.engine_cases import EngineCase

EXPERT_BODY = "model.body={use: experts, heads: 2, key: 3}"
ROUTINGS = ["apart", "all but one process", "all to one", "nowhere"]
ROUTING_STAGES = (1, 2, 3)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_dense_and_packed_layouts_agree(two_ranks: WorkerPool, routing: str) -> None:
    cases = [
        EngineCase((f"model.execution={layout}",), ROUTING_STAGES, routing=routing, steps=4)
        for layout in ("dense", "packed")
    ]
    assert_engines_agree(two_ranks, cases)


def test_functions_with_separate_weights_agree(two_ranks: WorkerPool) -> None:
    assert_engines_agree(
        two_ranks,
        [
            EngineCase((EXPERT_BODY, "model.scripts=2"), ROUTING_STAGES, routing="apart", steps=6),
            EngineCase(
                (EXPERT_BODY, "model.execution=packed", "train.activation_checkpointing=script"),
                ROUTING_STAGES,
                routing="drawn",
                steps=6,
            ),
        ],
    )


@pytest.mark.parametrize("routing", ["apart", "drawn"])
def test_body_that_skips_closed_functions(two_ranks: WorkerPool, routing: str) -> None:
    """A body that breaks the contract: weights of closed functions get no gradient, others get it in another order."""
    assert_engines_agree(
        two_ranks,
        [EngineCase(("model.body=branching", "model.scripts=2", "model.iterations=1"), routing=routing, steps=6)],
    )


def test_automatic_layout_may_differ_between_ranks(two_ranks: WorkerPool) -> None:
    """Each rank chooses its layout for itself."""
    assert_engines_agree(
        two_ranks, [EngineCase(("model.execution=auto", "model.scripts=2"), ROUTING_STAGES, routing="drawn", seed=1)]
    )


def test_four_ranks_agree(four_ranks: WorkerPool) -> None:
    assert_engines_agree(
        four_ranks,
        [EngineCase(("model.execution=packed", "model.scripts=2"), ROUTING_STAGES, routing="drawn", steps=6)],
    )


@pytest.mark.parametrize("halting", ["{use: act, bias: -1.0}", "{use: ponder}"])
def test_number_of_iterations_may_differ_between_ranks(two_ranks: WorkerPool, halting: str) -> None:
    case = EngineCase(
        (f"model.halting={halting}", "model.execution=packed", "model.iterations=4"), ROUTING_STAGES, halts=True
    )
    (by_rank,) = assert_engines_agree(two_ranks, [case])
    first, second = ([comparison["iterations"] for comparison in by_stage] for by_stage in by_rank)
    assert all(fewer < more for fewer, more in zip(first, second, strict=True)), (first, second)


@pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.soak)])
def test_random_routings_agree(two_ranks: WorkerPool, times: int) -> None:
    """The open functions are drawn for each step and rank."""
    for seed in range(times):
        body = [EXPERT_BODY, "model.body=branching", "model.body.linear=gated"][seed % 3]
        layout = "packed" if seed % 2 else "dense"
        overrides = body, f"model.execution={layout}", f"model.scripts={1 + seed % 3}"
        assert_engines_agree(two_ranks, [EngineCase(overrides, ROUTING_STAGES, routing="drawn", seed=seed)])
