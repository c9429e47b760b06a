"""Detects steps that would do harm: a loss or gradient that is not finite, or a loss far above the previous ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.recipe.schema import SkipConfig

# The mean is over about this many losses; as many must have been seen before one can be a spike.
LOSS_WINDOW = 100
# The standard deviation is taken to be at least this fraction of the mean.
MIN_RELATIVE_DEVIATION = 0.05


class StepGuard:
    """Judges each step before it is taken, from the mean m and the standard deviation s of recent losses.

    Both are running averages with weight 1/t, and 1/100 from the hundredth loss on. A spike is a loss above
    m + `skip.max_deviation` s. This rule is ours: the author's code takes every step.
    """

    def __init__(self, settings: SkipConfig) -> None:
        self.settings = settings
        self.num_losses, self.mean, self.mean_square = 0, 0.0, 0.0
        self.consecutive_skips = 0

    def check(self, loss: float, grad_norm: float) -> str | None:
        """Returns why a step with this loss and gradient norm must be skipped; None for a healthy one, which is recorded."""
        skip_reason = self._skip_reason(loss, grad_norm)
        if skip_reason is not None:
            self.consecutive_skips += 1
            return skip_reason
        self.consecutive_skips = 0
        self.num_losses += 1
        weight = 1 / min(self.num_losses, LOSS_WINDOW)
        self.mean += weight * (loss - self.mean)
        self.mean_square += weight * (loss**2 - self.mean_square)
        return None

    def _skip_reason(self, loss: float, grad_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the loss is {loss:.4g} and the norm of the gradient {grad_norm}"
        if self.settings.max_deviation is not None and self.num_losses >= LOSS_WINDOW:
            deviation = max(math.sqrt(max(self.mean_square - self.mean**2, 0)), MIN_RELATIVE_DEVIATION * abs(self.mean))
            if loss > self.mean + self.settings.max_deviation * deviation:
                return f"the loss is {loss:.4g}, a spike: the recent ones are {self.mean:.4g} with a deviation of {deviation:.2g}"
        return None

    def state(self) -> dict[str, Tensor]:
        """Returns what the next judgement depends on."""
        return {
            "counts": torch.tensor([self.num_losses, self.consecutive_skips]),
            "moments": torch.tensor([self.mean, self.mean_square], dtype=torch.float64),
        }

    def load_state(self, stored: Mapping[str, Tensor]) -> None:
        """Restores what `state` returned."""
        self.num_losses, self.consecutive_skips = stored["counts"].tolist()
        self.mean, self.mean_square = stored["moments"].tolist()
