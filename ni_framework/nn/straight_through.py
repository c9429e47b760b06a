"""A tensor with the values of one tensor and the gradient of another."""

from __future__ import annotations

from torch import Tensor


def straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    """Returns exactly `value` (of any shape); gradients flow into `gradient` (of the same shape) alone.

    Source: Bengio, Léonard, Courville, "Estimating or propagating gradients through stochastic neurons", 2013. The usual
    soft + (hard - soft).detach() is rounded, so that a closed pair would not be exactly 0.
    """
    return value.detach() + (gradient - gradient.detach())
