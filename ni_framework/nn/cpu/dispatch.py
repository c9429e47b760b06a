"""When the kernels of `nn.cpu` replace torch's operations: on the CPU, where memory traffic costs as much as arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# From this number of elements in the rows of one function, it is faster to compute one function after the other. Below it, a
# few operations on all functions at once are faster than many small ones. To measure it again, run `ni bench` with other values.
LOOP_MIN_ELEMENTS = 2**17


def first_order_backward(backward: Callable[..., Any]) -> Any:
    """Wraps a `backward`: it is differentiable once, and always runs with CPU autocast off."""

    @once_differentiable
    def wrapped(ctx: Any, *gradients: Any) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return backward(ctx, *gradients)
        with torch.autocast("cpu", enabled=False):
            return backward(ctx, *gradients)

    return wrapped


class CpuKernel(torch.autograd.Function):
    """Base of operations with a manual `backward`, which `first_order_backward` wraps.

    The comments of each `backward` give the equation of each gradient, with g for the gradient of the output.
    """

    # Each kernel has its own arguments.
    forward: Any
    backward: Any


def use_cpu_kernels(*tensors: Tensor) -> bool:
    """Whether these tensors are on the CPU and of one floating type, and neither autocast nor a compiler is active.

    In all other cases the plain expressions are faster: a GPU needs few large kernels, and a compiler fuses operations itself.
    """
    first = tensors[0]
    return (
        first.device.type == "cpu"
        and first.dtype in (torch.float32, torch.float64)
        and all(tensor.dtype == first.dtype for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def loop_over_functions(rows_UBVD: Tensor) -> bool:
    """Whether one function has so many rows that computing one function after the other is faster than all at once."""
    return rows_UBVD.shape[1:].numel() >= LOOP_MIN_ELEMENTS
