"""How long each process of a team works for a step, and which one holds up the others."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence

from ni_framework.engine.team import Team

EVERY = 10  # steps between two comparisons
SLOW = 2.0  # times as long as the typical process


class Pace:
    """The time that a process works on its own, without the waiting for others that is not its fault.

    On a GPU the host waits for less than the device does, so that a slow host is found and a slow GPU may not be.
    """

    def __init__(self, team: Team) -> None:
        self.team = team
        self._begin, self._waited = time.monotonic(), team.waiting.seconds
        self._known: set[int] = set()  # that are told of already

    def told(self, step: int) -> str | None:
        """Every tenth step, what is to be told of a process that has been slow since then, once."""
        if self.team.size == 1 or step % EVERY:
            return None
        now, waited = time.monotonic(), self.team.waiting.seconds
        seconds = max(now - self._begin - (waited - self._waited), 0) / EVERY
        found = self.team.gather([seconds, platform.node()])
        self._begin, self._waited = time.monotonic(), self.team.waiting.seconds
        rank = straggler([pace for pace, _ in found])
        if rank is None or rank in self._known:
            return None
        self._known.add(rank)
        typical = _typical([pace for pace, _ in found])
        return (
            f"process {rank} ({found[rank][1]}) holds up the others: it works {found[rank][0]:.3g} s for a step, they "
            f"{typical:.3g} s; look at what else runs there, and at how it reads its data"
        )


def straggler(seconds: Sequence[float]) -> int | None:
    """The process that takes more than twice as long as the typical one; None if there is none."""
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    return rank if seconds[rank] > SLOW * _typical(seconds) else None


def _typical(seconds: Sequence[float]) -> float:
    """The middle one, of two the faster."""
    return sorted(seconds)[(len(seconds) - 1) // 2]
