"""How long each process of a team works for a step, and which one holds up the others."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence

from ni_framework.distributed.communicator import Team

EVERY = 5  # steps between two comparisons
ROW = 3  # comparisons that have to agree: a process that is not given a core for a moment is no straggler
SLOW = 2.0  # times as long as the typical process
LEAST = 0.02  # seconds that a step takes longer; of steps of milliseconds the machine's other work can make as much


class Pace:
    """The time that a process works on its own steps, without the waiting for others that is not its fault.

    On a GPU the host waits for less than the device does, so that a slow host is found and a slow GPU may not be.
    """

    def __init__(self, team: Team) -> None:
        self.team = team
        self._worked = 0.0
        self._row: list[int | None] = []  # the last comparisons
        self._known: set[int] = set()  # that are told of already
        self.begin()

    def begin(self) -> None:
        """A step begins; what lies between two, as a checkpoint that one process writes, is no slowness."""
        self._begin, self._waited = time.monotonic(), self.team.waiting.seconds

    def told(self, step: int) -> str | None:
        """When a step ends, what is to be told of a process that has been slow for fifteen of them, once."""
        if self.team.size == 1:
            return None
        self._worked += max(time.monotonic() - self._begin - (self.team.waiting.seconds - self._waited), 0)
        if step % EVERY:
            return None
        found = self.team.gather([self._worked / EVERY, platform.node()])
        self._worked = 0.0
        seconds = [pace for pace, _ in found]
        rank = straggler(seconds)
        self._row = [*self._row, rank][-ROW:]
        if rank is None or rank in self._known or self._row != [rank] * ROW:
            return None
        self._known.add(rank)
        return (
            f"process {rank} ({found[rank][1]}) holds up the others: it works {seconds[rank]:.3g} s for a step, they "
            f"{_typical(seconds):.3g} s; look at what else runs there, and at how it reads its data"
        )


def straggler(seconds: Sequence[float]) -> int | None:
    """The process that takes more than twice as long as the typical one, and noticeably; None if there is none."""
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    typical = _typical(seconds)
    return rank if seconds[rank] > max(SLOW * typical, typical + LEAST) else None


def _typical(seconds: Sequence[float]) -> float:
    """The middle one, of two the faster."""
    return sorted(seconds)[(len(seconds) - 1) // 2]
