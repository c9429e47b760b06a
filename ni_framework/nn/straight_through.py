"""Values of one tensor with the gradient of another."""

from __future__ import annotations

from torch import Tensor


def straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    """Exactly `value` (of any shape), with gradients that flow into `gradient` (of the same shape) alone.

    Source: Bengio, Léonard, Courville, "Estimating or propagating gradients through stochastic neurons", 2013. The usual
    soft + (hard - soft).detach() rounds: a closed pair would not be exactly 0.
    """
    return value.detach() + (gradient - gradient.detach())
