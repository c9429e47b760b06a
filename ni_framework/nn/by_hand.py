"""Where operations written by hand stand in for torch's: on the CPU, where memory traffic costs as much as arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HandWritten(torch.autograd.Function):
    """Base of operations whose way back is written by hand too; it can be gone once only."""

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
