"""The loss scale that keeps gradients in the range of fp16, adapted while training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

INITIAL_SCALE, MIN_SCALE = 2.0**16, 1.0
# After this many steps without an overflow a larger scale is tried.
GROWTH_INTERVAL = 2000


class GradScaler:
    """Halves the scale with every overflow, whose step is skipped, and doubles it after 2,000 steps without one.

    Source: Micikevicius et al., "Mixed precision training" (2018), section 3.2, with the usual constants.
    """

    def __init__(self) -> None:
        self.scale, self.good_steps = INITIAL_SCALE, 0

    def check_overflow(self, grad_norm: float) -> bool:
        """Returns whether a gradient of this norm has overflowed, so that its step is to be skipped, and adapts the scale.

        At the smallest scale it returns False: then the gradient itself is at fault, and `StepGuard` judges it.
        """
        if not math.isfinite(grad_norm) and self.scale <= MIN_SCALE:
            self.good_steps = 0
            return False
        if math.isfinite(grad_norm):
            self.good_steps += 1
            if self.good_steps == GROWTH_INTERVAL:
                self.scale, self.good_steps = self.scale * 2, 0
            return False
        self.scale, self.good_steps = self.scale / 2, 0
        return True

    def state(self) -> Tensor:
        """Returns what the next step depends on: the scale, and the steps since it changed."""
        return torch.tensor([self.scale, self.good_steps], dtype=torch.float64)

    def load_state(self, stored: Tensor) -> None:
        """Restores what `state` returned."""
        scale, good_steps = stored.tolist()
        self.scale, self.good_steps = scale, int(good_steps)
