"""Where operations written by hand stand in for torch's: on the CPU, where memory traffic costs as much as arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers in the rows of one function from which it pays to take one function after the other: below, few operations on all at
# once are faster than many small ones. To measure it again, compare `ni bench` under another value.
LARGE = 2**17


def way_back(backward: Callable[..., Any]) -> Any:
    """Marks a way back as one that can be gone once, and that no autocast changes wherever it is called from."""

    @once_differentiable
    def unchanged(ctx: Any, *gradients: Any) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return backward(ctx, *gradients)
        with torch.autocast("cpu", enabled=False):
            return backward(ctx, *gradients)

    return unchanged


class HandWritten(torch.autograd.Function):
    """Base of operations whose way back, marked `way_back`, is written by hand too."""

    forward: Any  # each has arguments of its own
    backward: Any


def by_hand(*tensors: Tensor) -> bool:
    """Whether these tensors, of one floating type, are on the CPU and no autocast or compiler rewrites what is done to them.

    Elsewhere the plain expressions are faster: a GPU wants few large kernels, a compiler fuses by itself.
    """
    first = tensors[0]
    return (
        first.device.type == "cpu"
        and first.dtype in (torch.float32, torch.float64)
        and all(tensor.dtype == first.dtype for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def one_by_one(rows_UBVD: Tensor) -> bool:
    """Whether the rows of one function are so many that one function after the other is faster than all at once."""
    return rows_UBVD.shape[1:].numel() >= LARGE
