"""With DeepSpeed as without: the same numbers at any stage, in any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from ni_framework.testing.workers.pool import Processes
from tests.helpers.engine_agreement import agree
from tests.helpers.engine_cases import CONSTANT, FROZEN, Case

PRODUCT = [
    Case(
        (
            f"model.iterations={iterations}",
            f"model.scripts={scripts}",
            f"train.recompute={recompute}",
            f"model.execution={execution}",
        ),
        frozen=frozen,
    )
    for iterations, scripts, recompute, frozen, execution in product(
        (1, 2, 4, 8), (1, 3), ("none", "iteration", "script"), ((), FROZEN), ("dense", "packed")
    )
]


@pytest.fixture(scope="module")
def one() -> Iterator[Processes]:
    with Processes(1) as processes:
        yield processes


@pytest.fixture(scope="module")
def three() -> Iterator[Processes]:
    with Processes(3) as processes:
        yield processes


def test_all_processes_take_part(two: Processes, four: Processes) -> None:
    assert two.call("tests.helpers.rank_functions.engine_agreement:team_size") == [2, 2]
    assert four.call("tests.helpers.rank_functions.engine_agreement:team_size") == [4] * 4


# Every value of every setting is among the few; what is long is among all.
@pytest.mark.parametrize("every", [19, pytest.param(1, marks=pytest.mark.soak)])
def test_in_two_processes(two: Processes, every: int) -> None:
    agree(two, PRODUCT[:-1:every])


@pytest.mark.parametrize("every", [39, pytest.param(5, marks=pytest.mark.soak)])
def test_in_four_processes(four: Processes, every: int) -> None:
    agree(four, PRODUCT[57::every])


@pytest.mark.parametrize("every", [71, pytest.param(5, marks=pytest.mark.soak)])
def test_in_one_process(one: Processes, every: int) -> None:
    agree(one, PRODUCT[29::every])


def test_adamw(two: Processes) -> None:
    agree(two, [Case(("model.scripts=2",), optimizer="adamw", steps=20)])


@pytest.mark.soak
def test_adamw_everywhere(two: Processes, four: Processes) -> None:
    cases = [Case(case.overrides, case.stages, "adamw", case.frozen, steps=20) for case in PRODUCT[3::7]]
    agree(two, cases)
    agree(four, cases)


def test_bf16(two: Processes) -> None:
    (found,) = agree(two, [Case(("train.precision=bf16", "model.scripts=2"), optimizer="adamw")])
    (exact,) = agree(two, [Case(("model.scripts=2",), optimizer="adamw", stages=(2,))])
    assert all(of_stage["last loss"] != exact[0][0]["last loss"] for of_stage in found[0])


def test_in_parts_with_gradients_of_any_norm(two: Processes) -> None:
    """Neither clipping nor Adam hides a wrong scale of the gradient here."""
    agree(two, [Case(("train.accumulate=4", "train.clip=null"))])


def test_a_state_that_needs_no_gradient(two: Processes) -> None:
    agree(two, [Case(("model.scripts=2", "train.recompute=iteration"), frozen=CONSTANT)])


def test_evaluation_with_more_iterations_changes_nothing(two: Processes) -> None:
    without, evaluated = agree(two, [Case(stages=(2, 3)), Case(stages=(2, 3), evaluate=5)])
    assert without == evaluated


def test_parameters_of_odd_sizes(three: Processes) -> None:
    """Without elements, without a dimension, of one element, and of fewer than there are processes."""
    agree(three, [Case(("model.type_inference=scattered", "model.functions=2"))])


def test_dataclasses_and_a_module_held_twice(two: Processes) -> None:
    agree(two, [Case(("model.body=noted", "model.scripts=2"))])


def test_a_module_in_two_scripts(two: Processes) -> None:
    case = Case(("model.scripts=2",), stages=(0, 1, 2), tied=True)
    agree(two, [case])


def test_a_module_in_two_scripts_is_refused_at_stage_3(one: Processes) -> None:
    (said,) = one.call("tests.helpers.rank_functions.engine_agreement:refusal")
    assert said == (
        "RunError: engine.stage: 3 divides the model by scripts, and scripts.1.type_inference.layers.0.weight belongs to "
        "scripts.0 too; use stage 2, or give each a parameter of its own"
    )
