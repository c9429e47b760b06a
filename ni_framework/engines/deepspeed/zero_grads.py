"""A loss that every parameter takes part in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Tied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(*parameters)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient, *(gradient.new_zeros(()).expand_as(parameter) for parameter in ctx.saved_tensors)


def tied(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The same loss, from which each parameter gets a gradient, of zero where it has taken no part.

    At stages 1 and 2 DeepSpeed adds up the gradients of processes in the order in which they come. Where one process has a
    gradient and another has none, it silently adds those of different parameters.
    """
    return _Tied.apply(loss, *parameters)  # pyright: ignore[reportReturnType]
