"""Steps that would do harm: a loss or gradient that is not finite, or a loss far above those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.recipe.schema import Skip

RECENT = 100  # losses that the mean is over, and that must have been seen before one can be called a spike
LEAST = 0.05  # of the mean: a standard deviation is taken to be no smaller


class Guard:
    """Judges each step before it is taken, from the mean m and the deviation s of recent losses.

    Both are running averages with weight 1/t, from the hundredth loss on 1/100; a spike is a loss above m + `skip.spike` s.
    A rule of our own: the author's code takes every step.
    """

    def __init__(self, settings: Skip) -> None:
        self.settings = settings
        self.seen, self.mean, self.square = 0, 0.0, 0.0
        self.skipped = 0  # in a row

    def fault(self, loss: float, norm: float) -> str | None:
        """Why a step with this loss and norm of the gradient must be skipped; None for a healthy one, which is remembered."""
        fault = self._fault(loss, norm)
        if fault is not None:
            self.skipped += 1
            return fault
        self.skipped = 0
        self.seen += 1
        weight = 1 / min(self.seen, RECENT)
        self.mean += weight * (loss - self.mean)
        self.square += weight * (loss**2 - self.square)
        return None

    def _fault(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the loss is {loss:.4g} and the norm of the gradient {norm}"
        if self.settings.spike is not None and self.seen >= RECENT:
            deviation = max(math.sqrt(max(self.square - self.mean**2, 0)), LEAST * abs(self.mean))
            if loss > self.mean + self.settings.spike * deviation:
                return f"the loss is {loss:.4g}, a spike: the recent ones are {self.mean:.4g} with a deviation of {deviation:.2g}"
        return None

    def state(self) -> dict[str, Tensor]:
        """What the next judgement depends on."""
        return {
            "counts": torch.tensor([self.seen, self.skipped]),
            "moments": torch.tensor([self.mean, self.square], dtype=torch.float64),
        }

    def load_state(self, stored: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` returned."""
        self.seen, self.skipped = stored["counts"].tolist()
        self.mean, self.square = stored["moments"].tolist()
