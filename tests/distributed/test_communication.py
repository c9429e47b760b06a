"""Messages do not depend on the iterations, one script is gathered at a time, and all ranks send the same messages."""

from __future__ import annotations

import pytest

from ni_framework.testing.workers.pool import WorkerPool

COMMUNICATION = "tests.helpers.rank_functions.communication"
ITERATIONS = [1, 2, 4, 8]


@pytest.mark.parametrize("checkpointing", ["none", "iteration", "script"])
def test_iterations_cost_no_messages_at_stage_3(two_ranks: WorkerPool, checkpointing: str) -> None:
    overrides = ["model.scripts=2", f"train.activation_checkpointing={checkpointing}"]
    for counts in two_ranks.call(f"{COMMUNICATION}:count_messages", ITERATIONS, 3, overrides):
        first, *others = counts
        assert first["all_gather_into_tensor"] > 0
        assert all(other == first for other in others), counts
        # Each parameter once in the forward and once in the backward pass, padded to a multiple of the world size.
        assert first["parameters"] < first["gathered"] < 2.05 * first["parameters"], first


def test_iterations_cost_no_messages_at_stages_0_to_2(two_ranks: WorkerPool) -> None:
    for stage in (0, 1, 2):
        for first, *others in two_ranks.call(f"{COMMUNICATION}:count_messages", [1, 4], stage, ["model.scripts=2"]):
            assert all(other == first for other in others), (stage, first, others)
            assert first["all_reduce"] > 0


THREE_SCRIPTS = "model.scripts=[{functions: 3}, {functions: 5, code: 7}, {functions: 2, iterations: 1}]"


@pytest.mark.parametrize("threshold", [0, 20])
def test_one_script_is_gathered_at_a_time(two_ranks: WorkerPool, threshold: int) -> None:
    cases = [
        [THREE_SCRIPTS, "model.iterations=8"],
        [THREE_SCRIPTS, "model.iterations=1"],
        [THREE_SCRIPTS, "train.activation_checkpointing=iteration"],
        [THREE_SCRIPTS, "train.activation_checkpointing=script", "train.precision=bf16", "train.micro_batches=4"],
    ]
    for results in two_ranks.call(f"{COMMUNICATION}:peak_gathered_numel", cases, threshold):
        for numel in results:
            assert (numel["persistent"] > 0) == (threshold > 0), numel
            assert numel["script"] <= numel["peak"] <= 1.05 * numel["script"] + numel["persistent"], numel
            assert numel["peak"] < 0.6 * numel["all"], numel


@pytest.mark.parametrize("seeds", [3, pytest.param(200, marks=pytest.mark.soak)])
def test_all_ranks_send_the_same_messages(two_ranks: WorkerPool, seeds: int) -> None:
    for seed in range(seeds):
        first, second = two_ranks.call(f"{COMMUNICATION}:record_messages", [seed])
        assert len(first[0]) >= 9, "three steps need at least nine messages"
        assert first == second


def test_closed_engines_free_their_memory(two_ranks: WorkerPool) -> None:
    for results in two_ranks.call(f"{COMMUNICATION}:memory_after_close", 20):
        sizes, models = zip(*results, strict=True)
        assert models[-1] == models[4], models
        assert max(sizes[-3:]) < 1.05 * sizes[4], sizes
