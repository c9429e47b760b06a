"""Workaround: DeepSpeed (0.19.8) mixes up gradients if a parameter has one on some ranks only.

What DeepSpeed does: at stages 1 and 2 it adds up the gradients of the ranks in the order in which they arrive. What goes wrong:
where one rank has a gradient and another has none, it silently adds gradients of different parameters. How this repairs it:
`with_zero_grads` makes every parameter take part in the loss, so that each gets a gradient on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _ZeroGradients(torch.autograd.Function):
    """Returns the loss as it is; in the backward pass each parameter gets an additional gradient of zero."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(*parameters)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient, *(gradient.new_zeros(()).expand_as(parameter) for parameter in ctx.saved_tensors)


def with_zero_grads(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Returns the same loss, from which every parameter gets a gradient: zero if the loss does not depend on it."""
    return _ZeroGradients.apply(loss, *parameters)  # pyright: ignore[reportReturnType]
