"""Asserts of every case that DeepSpeed trains as the local engine and plain torch do, and that it really shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from ni_framework.testing.workers.pool import WorkerPool
from tests.helpers.engine_cases import EngineCase

# For SGD, after 10 steps.
WEIGHTS_TOLERANCE = 1e-6
# For AdamW, over 20 steps.
LOSSES_TOLERANCE = 1e-5
BF16_TOLERANCE = 2.0**-8
# Stage 3 caches no casts and uses DeepSpeed's linear map, so that sums are rounded in other places: over ten steps of AdamW,
# losses differed by 1.1 %.
BF16_STAGE_3_TOLERANCE = 2.0**-6


def assert_engines_agree(processes: WorkerPool, cases: Sequence[EngineCase]) -> list[list[list[dict[str, Any]]]]:
    """Trains all cases; returns the comparison of each, by rank and stage."""
    comparisons = []
    for case in cases:
        by_rank = processes.call("tests.helpers.rank_functions.engine_agreement:compare_engines", [attrs.asdict(case)])
        assert len(by_rank) == processes.world_size
        for by_stage in by_rank:
            assert [comparison["stage"] for comparison in by_stage] == list(case.stages)
            for comparison in by_stage:
                assert_stage_agrees(case, comparison, processes.world_size)
        comparisons.append(by_rank)
    return comparisons


def assert_stage_agrees(case: EngineCase, comparison: dict[str, Any], world_size: int) -> None:
    """Asserts that a stage trained as the other engines did.

    Args:
        case: What was trained.
        comparison: The result of `compare_engines` for one rank and stage.
        world_size: The number of ranks.
    """
    where = case, comparison
    assert comparison["ranks"] == world_size, where
    assert comparison["faults"] == [], where
    assert comparison["weight change"] > 1e-2, where
    for reference in ("local", "plain"):
        if any("bf16" in override for override in case.overrides):
            tolerance = BF16_STAGE_3_TOLERANCE if comparison["stage"] == 3 else BF16_TOLERANCE
            assert comparison[f"{reference} losses"] < tolerance * comparison["last loss"], where
            continue
        assert comparison[f"{reference} losses"] < LOSSES_TOLERANCE, where
        if case.optimizer == "sgd":
            assert comparison[f"{reference} weights"] < WEIGHTS_TOLERANCE, where
    if comparison["stage"] and world_size > 1:
        sent = comparison["messages"]
        if comparison["stage"] == 3:
            assert sent["reduce_scatter_tensor"] > 1, where
        else:
            # In addition to the buckets there is one all-reduce for the norm of each group, and one for all of them.
            assert sent["all_reduce"] > (3 if case.optimizer == "adamw" else 2), where
