"""The factor that keeps gradients in the range of fp16, found while training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

START, LEAST = 2.0**16, 1.0
PATIENCE = 2000  # steps without an overflow after which a larger factor is tried


class LossScale:
    """Halves with every overflow, which leaves its step out, and doubles after 2,000 steps without one.

    Source: Micikevicius et al., "Mixed precision training" (2018), section 3.2, with the usual constants.
    """

    def __init__(self) -> None:
        self.factor, self.good = START, 0

    def overflows(self, norm: float) -> bool:
        """Whether a gradient of this norm has left the range, so that its step is no step; at the least factor it never has."""
        if not math.isfinite(norm) and self.factor <= LEAST:
            self.good = 0
            return False
        if math.isfinite(norm):
            self.good += 1
            if self.good == PATIENCE:
                self.factor, self.good = self.factor * 2, 0
            return False
        self.factor, self.good = self.factor / 2, 0
        return True

    def state(self) -> Tensor:
        """What the next step depends on."""
        return torch.tensor([self.factor, self.good], dtype=torch.float64)

    def load_state(self, stored: Tensor) -> None:
        """Goes on from what `state` returned."""
        factor, good = stored.tolist()
        self.factor, self.good = factor, int(good)
