"""Collapse of functions while training: one that takes everything, or one that takes nothing, for several lines of metrics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.model.routing_metrics import by_script

LINES = 3  # in a row
ALL, NOTHING = 0.99, 1e-6  # shares of a script's compatibility


class Collapse:
    """Counts how many lines in a row each function has taken everything or nothing, and says so once."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}

    def alarms(self, figures: Mapping[str, float]) -> list[str]:
        """What has been collapsed for exactly three lines now, from the routing figures of a line."""
        alarms = []
        for script, uses in by_script(figures, "routing/use/").items():
            for number, use in enumerate(uses):
                for state, holds in (("all", len(uses) > 1 and use > ALL), ("nothing", use < NOTHING)):
                    key = f"{state}/{script}/f{number}"
                    self._count[key] = self._count.get(key, 0) + 1 if holds else 0
                    if self._count[key] == LINES:
                        alarms.append(_alarm(script, f"f{number}", use, state))
        return alarms

    def state(self) -> dict[str, Tensor]:
        """The counts that are not zero."""
        return {name: torch.tensor(count) for name, count in self._count.items() if count}

    def load_state(self, stored: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` returned."""
        self._count = {name: int(count) for name, count in stored.items()}


def _alarm(script: str, function: str, use: float, state: str) -> str:
    found = f"takes {use:.1%} of what {script} computes" if state == "all" else f"of {script} takes nothing any more"
    return (
        f"functions have collapsed: {function} {found}; lower train.optimizer.lr, raise model.router.truncation or "
        "bandwidth, or use fewer functions"
    )
