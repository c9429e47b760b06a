"""Training in two processes."""

from __future__ import annotations

from ni_framework.testing.checks.check import PARTS, check
from ni_framework.testing.failures import Failure
from ni_framework.testing.harness.case import Case
from ni_framework.testing.workers.zero_pair import Apart, compared

WHEN = (
    "in which all functions are open in both processes",
    "in which the processes open different functions",
    "in which process 1 opens no function",
    "in which process 0 opens no function",
)


@check(
    *PARTS,
    why="`engine.use: zero` divides gradients (stage 2) and weights (stage 3) among processes that see other samples and open "
    "other functions: what is not computed alike in all of them goes wrong without a word, or hangs",
    fix="compute from inputs and parameters alone, never from the rank, the environment or what was there before; send "
    "nothing to other processes (statistics and `absorb` do); return tensors, or tuples and dicts of them, from modules inside",
)
def together(case: Case) -> None:
    """Trained in two processes with ZeRO-2 and ZeRO-3, a model with it gets the weights that one process gives it."""
    try:
        found = compared(case)
    except Apart as fault:
        raise Failure(f"a model with it, trained in two processes, {fault}") from fault
    for fault in found:
        when = f" {WHEN[fault.step]}" if case.kind != "router" else ""
        by = (
            f"differs by {fault.difference:.2g}"
            if fault.difference == fault.difference
            else "is not told in all of them"
        )
        raise Failure(f"at stage {fault.stage} in two processes, {fault.what} {by} after step {fault.step + 1},{when}")
