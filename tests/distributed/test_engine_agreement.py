"""DeepSpeed gives the same numbers as the local engine and plain torch, at any stage and with any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from ni_framework.testing.workers.pool import WorkerPool
from tests.helpers.engine_agreement import assert_engines_agree
from tests.helpers.engine_cases import FROZEN_PREFIXES, NO_GRAD_PREFIXES, EngineCase

ITERATION_SCRIPT_CASES = [
    EngineCase(
        (
            f"model.iterations={iterations}",
            f"model.scripts={scripts}",
            f"train.activation_checkpointing={checkpointing}",
            f"model.execution={execution}",
        ),
        frozen=frozen,
    )
    for iterations, scripts, checkpointing, frozen, execution in product(
        (1, 2, 4, 8), (1, 3), ("none", "iteration", "script"), ((), FROZEN_PREFIXES), ("dense", "packed")
    )
]


@pytest.fixture(scope="module")
def one_rank() -> Iterator[WorkerPool]:
    with WorkerPool(1) as processes:
        yield processes


@pytest.fixture(scope="module")
def three_ranks() -> Iterator[WorkerPool]:
    with WorkerPool(3) as processes:
        yield processes


def test_world_size_of_pools(two_ranks: WorkerPool, four_ranks: WorkerPool) -> None:
    assert two_ranks.call("tests.helpers.rank_functions.engine_agreement:count_ranks") == [2, 2]
    assert four_ranks.call("tests.helpers.rank_functions.engine_agreement:count_ranks") == [4] * 4


# Every value of every setting is in the short selection; `soak` runs all cases.
@pytest.mark.parametrize("every", [19, pytest.param(1, marks=pytest.mark.soak)])
def test_two_ranks_agree(two_ranks: WorkerPool, every: int) -> None:
    assert_engines_agree(two_ranks, ITERATION_SCRIPT_CASES[:-1:every])


@pytest.mark.parametrize("every", [39, pytest.param(5, marks=pytest.mark.soak)])
def test_four_ranks_agree(four_ranks: WorkerPool, every: int) -> None:
    assert_engines_agree(four_ranks, ITERATION_SCRIPT_CASES[57::every])


@pytest.mark.parametrize("every", [71, pytest.param(5, marks=pytest.mark.soak)])
def test_one_rank_agrees(one_rank: WorkerPool, every: int) -> None:
    assert_engines_agree(one_rank, ITERATION_SCRIPT_CASES[29::every])


def test_adamw_agrees(two_ranks: WorkerPool) -> None:
    assert_engines_agree(two_ranks, [EngineCase(("model.scripts=2",), optimizer="adamw", steps=20)])


@pytest.mark.soak
def test_adamw_agrees_in_many_cases(two_ranks: WorkerPool, four_ranks: WorkerPool) -> None:
    cases = [
        EngineCase(case.overrides, case.stages, "adamw", case.frozen, steps=20) for case in ITERATION_SCRIPT_CASES[3::7]
    ]
    assert_engines_agree(two_ranks, cases)
    assert_engines_agree(four_ranks, cases)


def test_bf16_agrees(two_ranks: WorkerPool) -> None:
    (bf16,) = assert_engines_agree(
        two_ranks, [EngineCase(("train.precision=bf16", "model.scripts=2"), optimizer="adamw")]
    )
    (fp32,) = assert_engines_agree(two_ranks, [EngineCase(("model.scripts=2",), optimizer="adamw", stages=(2,))])
    assert all(stage["last loss"] != fp32[0][0]["last loss"] for stage in bf16[0]), "bf16 was not used"


def test_micro_batches_with_clipped_gradients(two_ranks: WorkerPool) -> None:
    """Without clipping and without Adam, which would hide a wrong scale of the gradient."""
    assert_engines_agree(two_ranks, [EngineCase(("train.micro_batches=4", "train.max_grad_norm=null"))])


def test_script_input_without_gradient(two_ranks: WorkerPool) -> None:
    assert_engines_agree(
        two_ranks,
        [EngineCase(("model.scripts=2", "train.activation_checkpointing=iteration"), frozen=NO_GRAD_PREFIXES)],
    )


def test_evaluation_with_more_iterations_does_not_change_training(two_ranks: WorkerPool) -> None:
    without, evaluated = assert_engines_agree(
        two_ranks, [EngineCase(stages=(2, 3)), EngineCase(stages=(2, 3), eval_iterations=5)]
    )
    assert without == evaluated


def test_parameters_of_odd_sizes(three_ranks: WorkerPool) -> None:
    """No element, a scalar, one element, and fewer elements than there are ranks."""
    assert_engines_agree(three_ranks, [EngineCase(("model.type_inference=scattered", "model.functions=2"))])


def test_dataclasses_and_shared_module_agree(two_ranks: WorkerPool) -> None:
    assert_engines_agree(two_ranks, [EngineCase(("model.body=noted", "model.scripts=2"))])


def test_module_shared_by_two_scripts_agrees(two_ranks: WorkerPool) -> None:
    case = EngineCase(("model.scripts=2",), stages=(0, 1, 2), shares_type_inference=True)
    assert_engines_agree(two_ranks, [case])


def test_module_shared_by_two_scripts_is_rejected_at_stage_3(one_rank: WorkerPool) -> None:
    (message,) = one_rank.call("tests.helpers.rank_functions.engine_agreement:shared_module_error")
    assert message == (
        "RunError: engine.stage: 3 shards the model script by script, and scripts.1.type_inference.layers.0.weight belongs to "
        "scripts.0 too; use stage 2, or give each a parameter of its own"
    )
