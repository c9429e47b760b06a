"""The check of sharded training in two processes."""

from __future__ import annotations

import math

from ni_framework.testing.checks.check import MODULE_KINDS, conformance_check
from ni_framework.testing.failures import Failure
from ni_framework.testing.harness.case import Case
from ni_framework.testing.workers.zero_pair import PairFailure, find_zero_differences

STEP_DESCRIPTIONS = (
    "in which all functions are open on both ranks",
    "in which different functions are open on the two ranks",
    "in which no function is open on rank 1",
    "in which no function is open on rank 0",
)


@conformance_check(
    *MODULE_KINDS,
    why="`engine.use: zero` shards gradients (stage 2) and weights (stage 3) over ranks that get different samples and open "
    "different functions: a component that behaves differently on some ranks gives silently wrong results, or hangs",
    fix="compute from inputs and parameters alone, never from the rank, the environment or earlier calls; do not communicate "
    "with other ranks (return statistics for `update_buffers` instead); inner modules must return tensors, or tuples and "
    "dicts of tensors",
)
def zero_parity(case: Case) -> None:
    """Training in two processes with ZeRO-2 and ZeRO-3 gives the same weights as training in one process."""
    try:
        differences = find_zero_differences(case)
    except PairFailure as failure:
        raise Failure(f"a model with it, trained in two processes, {failure}") from failure
    for difference in differences:
        when = f" {STEP_DESCRIPTIONS[difference.step]}" if case.kind != "router" else ""
        # NaN means that only one of the two has the value.
        if math.isnan(difference.difference):
            problem = "is not reported on all ranks"
        else:
            problem = f"differs by {difference.difference:.2g}"
        raise Failure(
            f"at stage {difference.stage} in two processes, {difference.what} {problem} after step {difference.step + 1},{when}"
        )
