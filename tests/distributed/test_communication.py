"""What is sent does not hang on the iterations, what is held is one script, and all processes send the same."""

from __future__ import annotations

import pytest

from ni_framework.testing.workers.pool import Processes

WATCHING = "tests.helpers.rank_functions.communication"
ITERATIONS = [1, 2, 4, 8]


@pytest.mark.parametrize("recompute", ["none", "iteration", "script"])
def test_iterations_cost_no_messages_at_stage_3(two: Processes, recompute: str) -> None:
    overrides = ["model.scripts=2", f"train.recompute={recompute}"]
    for found in two.call(f"{WATCHING}:counts", ITERATIONS, 3, overrides):
        first, *others = found
        assert first["all_gather_into_tensor"] > 0
        assert all(other == first for other in others), found
        # Each parameter once on the way there and once on the way back, padded to a multiple of the processes.
        assert first["parameters"] < first["gathered"] < 2.05 * first["parameters"], first


def test_iterations_cost_no_messages_below(two: Processes) -> None:
    for stage in (0, 1, 2):
        for first, *others in two.call(f"{WATCHING}:counts", [1, 4], stage, ["model.scripts=2"]):
            assert all(other == first for other in others), (stage, first, others)
            assert first["all_reduce"] > 0


SCRIPTS = "model.scripts=[{functions: 3}, {functions: 5, code: 7}, {functions: 2, iterations: 1}]"


@pytest.mark.parametrize("threshold", [0, 20])
def test_one_script_is_held_at_a_time(two: Processes, threshold: int) -> None:
    cases = [
        [SCRIPTS, "model.iterations=8"],
        [SCRIPTS, "model.iterations=1"],
        [SCRIPTS, "train.recompute=iteration"],
        [SCRIPTS, "train.recompute=script", "train.precision=bf16", "train.accumulate=4"],
    ]
    for found in two.call(f"{WATCHING}:peaks", cases, threshold):
        for held in found:
            assert (held["persistent"] > 0) == (threshold > 0), held
            assert held["script"] <= held["peak"] <= 1.05 * held["script"] + held["persistent"], held
            assert held["peak"] < 0.6 * held["all"], held


@pytest.mark.parametrize("seeds", [3, pytest.param(200, marks=pytest.mark.soak)])
def test_all_processes_send_the_same(two: Processes, seeds: int) -> None:
    for seed in range(seeds):
        first, second = two.call(f"{WATCHING}:ledgers", [seed])
        assert len(first[0]) >= 9  # three steps
        assert first == second


def test_a_closed_engine_leaves_nothing(two: Processes) -> None:
    for found in two.call(f"{WATCHING}:memory", 20):
        sizes, left = zip(*found, strict=True)
        assert left[-1] == left[4], left
        assert max(sizes[-3:]) < 1.05 * sizes[4], sizes
