"""Detects the collapse of functions while training: one that is used for everything, or one that is not used at all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.model.routing_metrics import group_by_script

# In so many entries of the metrics in a row a function must have been collapsed before a warning.
ALARM_AFTER_ENTRIES = 3
# A function is dominant above, or unused below, this share of its script's compatibilities.
DOMINANT_SHARE, UNUSED_SHARE = 0.99, 1e-6


class CollapseDetector:
    """Counts in how many entries in a row each function has been dominant or unused, and warns once."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def check(self, metrics: Mapping[str, float]) -> list[str]:
        """Returns warnings for the functions that have now been collapsed for exactly three entries of routing metrics."""
        alarms = []
        for script, uses in group_by_script(metrics, "routing/use/").items():
            for number, use in enumerate(uses):
                for state, is_collapsed in (
                    ("all", len(uses) > 1 and use > DOMINANT_SHARE),
                    ("nothing", use < UNUSED_SHARE),
                ):
                    key = f"{state}/{script}/f{number}"
                    self._counts[key] = self._counts.get(key, 0) + 1 if is_collapsed else 0
                    if self._counts[key] == ALARM_AFTER_ENTRIES:
                        alarms.append(_format_alarm(script, f"f{number}", use, state))
        return alarms

    def state(self) -> dict[str, Tensor]:
        """Returns the counts that are not zero."""
        return {name: torch.tensor(count) for name, count in self._counts.items() if count}

    def load_state(self, stored: Mapping[str, Tensor]) -> None:
        """Restores what `state` returned."""
        self._counts = {name: int(count) for name, count in stored.items()}


def _format_alarm(script: str, function: str, use: float, state: str) -> str:
    symptom = f"takes {use:.1%} of what {script} computes" if state == "all" else f"of {script} is no longer used"
    return (
        f"functions have collapsed: {function} {symptom}; lower train.optimizer.lr, raise model.router.truncation or "
        "bandwidth, or use fewer functions"
    )
