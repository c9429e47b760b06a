"""Measures how long each rank works for a step, and reports a straggler."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence

from ni_framework.distributed.communicator import Communicator

# Steps between two comparisons.
COMPARE_EVERY = 5
# Comparisons that have to agree: a process that has no core for a moment is no straggler.
CONSECUTIVE_COMPARISONS = 3
# A straggler takes more than this many times as long as the typical rank.
SLOWDOWN_FACTOR = 2.0
# And at least this much longer for a step, because steps of milliseconds vary as much with the machine's other work.
MIN_EXCESS_SECONDS = 0.02


class StragglerDetector:
    """Measures the time that this rank works on its steps, without the time that it waits for other ranks.

    On a GPU the host waits for less than the device does: a slow host is detected, a slow GPU may not be.
    """

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm
        self._work_seconds = 0.0
        # The results of the last comparisons.
        self._recent_stragglers: list[int | None] = []
        self._reported_ranks: set[int] = set()
        self.start_step()

    def start_step(self) -> None:
        """Starts the clock of a step; the time between two steps, for example for a checkpoint, does not count."""
        self._step_started, self._wait_seconds_before = time.monotonic(), self.comm.wait_timer.seconds

    def check(self, step: int) -> str | None:
        """Ends the clock of a step; returns a message, once per rank, if a rank has been slow for 15 steps."""
        if self.comm.world_size == 1:
            return None
        self._work_seconds += max(
            time.monotonic() - self._step_started - (self.comm.wait_timer.seconds - self._wait_seconds_before), 0
        )
        if step % COMPARE_EVERY:
            return None
        measured = self.comm.all_gather_json([self._work_seconds / COMPARE_EVERY, platform.node()])
        self._work_seconds = 0.0
        seconds = [rank_seconds for rank_seconds, _ in measured]
        rank = find_straggler(seconds)
        self._recent_stragglers = [*self._recent_stragglers, rank][-CONSECUTIVE_COMPARISONS:]
        if rank is None or rank in self._reported_ranks or self._recent_stragglers != [rank] * CONSECUTIVE_COMPARISONS:
            return None
        self._reported_ranks.add(rank)
        return (
            f"process {rank} ({measured[rank][1]}) is a straggler: it works {seconds[rank]:.3g} s for a step, the others "
            f"{_lower_median(seconds):.3g} s; check what else runs there, and how it reads its data"
        )


def find_straggler(seconds: Sequence[float]) -> int | None:
    """Returns the rank that takes more than twice as long as the typical one, and noticeably longer; None if none does."""
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    typical = _lower_median(seconds)
    return rank if seconds[rank] > max(SLOWDOWN_FACTOR * typical, typical + MIN_EXCESS_SECONDS) else None


def _lower_median(seconds: Sequence[float]) -> float:
    """Returns the middle value, of two the smaller one."""
    return sorted(seconds)[(len(seconds) - 1) // 2]
