"""What holds of every case: DeepSpeed trains as the local engine and as plain torch do, and has really divided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from ni_framework.testing.workers.pool import Processes
from tests.helpers.engine_cases import Case

WEIGHTS = 1e-6  # of SGD, after 10 steps
LOSSES = 1e-5  # of AdamW, over 20
BF16 = 2.0**-8
# Stage 3 keeps no casts and has DeepSpeed's linear map, so that sums are rounded in other places: over ten steps of AdamW, losses
# were 1.1 % apart.
BF16_AT_STAGE_3 = 2.0**-6


def agree(processes: Processes, cases: Sequence[Case]) -> list[list[list[dict[str, Any]]]]:
    """Trains all cases; what was found of each, by rank and stage."""
    answers = []
    for case in cases:
        found = processes.call("tests.helpers.rank_functions.engine_agreement:compare", [attrs.asdict(case)])
        assert len(found) == processes.number
        for of_rank in found:
            assert [of_stage["stage"] for of_stage in of_rank] == list(case.stages)
            for of_stage in of_rank:
                check(case, of_stage, processes.number)
        answers.append(found)
    return answers


def check(case: Case, found: dict[str, Any], size: int) -> None:
    """Asserts that a stage trained as it should."""
    where = case, found
    assert found["ranks"] == size, where
    assert found["faults"] == [], where
    assert found["moved"] > 1e-2, where
    for reference in ("local", "plain"):
        if any("bf16" in override for override in case.overrides):
            precision = BF16_AT_STAGE_3 if found["stage"] == 3 else BF16
            assert found[f"{reference} losses"] < precision * found["last loss"], where
            continue
        assert found[f"{reference} losses"] < LOSSES, where
        if case.optimizer == "sgd":
            assert found[f"{reference} weights"] < WEIGHTS, where
    if found["stage"] and size > 1:
        sent = found["messages"]
        if found["stage"] == 3:
            assert sent["reduce_scatter_tensor"] > 1, where
        else:  # one more for each group's norm, and one for all of them
            assert sent["all_reduce"] > (3 if case.optimizer == "adamw" else 2), where
