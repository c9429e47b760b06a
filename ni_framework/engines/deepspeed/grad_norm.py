"""Workaround: DeepSpeed (0.19.8) computes the gradient norm inside its step, where nobody else can judge it first.

What DeepSpeed does: at stages 1 to 3 its optimizer computes the norm of the gradient within the step, skips the step if the norm
is not finite, and clips otherwise. What goes wrong: `StepGuard` must judge the norm before the step, and must be able to skip the
step. How this repairs it: the optimizer's function for the norm returns what was measured before the step, or infinity to skip
the step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class GradNormOverride:
    """Measures the gradient norm before a step, and makes DeepSpeed's step use the measured norm."""

    def __init__(self, optimizer: Any, stage: int) -> None:
        """Replaces the norm function of DeepSpeed's optimizer at one of the stages 1 to 3."""
        self._norm: Tensor | None = None
        if stage == 3:
            from deepspeed.runtime.utils import combine_grad_norm_groups

            original_norm_groups = optimizer._get_norm_groups
            self._compute = lambda: combine_grad_norm_groups(original_norm_groups())
            optimizer._get_norm_groups = lambda: [self._norm]
        else:
            self._compute = optimizer.scaled_global_norm
            optimizer.scaled_global_norm = lambda norm_type=2: self._norm

    def measure(self) -> Tensor:
        """Returns the norm of the whole batch's gradient, multiplied by the loss scale; the next step uses it."""
        norm: Tensor = self._compute()
        self._norm = norm
        return norm

    def skip_next_step(self) -> None:
        """Makes DeepSpeed skip its next step: it takes none whose norm is infinite."""
        self._norm = torch.tensor(float("inf"))
