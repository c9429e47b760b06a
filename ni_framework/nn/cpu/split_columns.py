"""A split of columns without a copy in the forward or the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ni_framework.nn.cpu.dispatch import CpuKernel, first_order_backward, use_cpu_kernels


def split_columns(rows: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """Returns the parts [..., width] of rows [..., sum of widths], as views.

    If the gradients of the parts are adjacent columns of one tensor, that tensor is the gradient of the rows; torch's own split
    would copy them into a new tensor.
    """
    if not use_cpu_kernels(rows):
        return rows.split(tuple(widths), dim=-1)
    return _SplitColumns.apply(rows, tuple(widths))  # pyright: ignore[reportReturnType]


class _SplitColumns(CpuKernel):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, widths: tuple[int, ...]) -> tuple[Tensor, ...]:
        return rows.split(widths, dim=-1)

    @staticmethod
    @first_order_backward
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # dL/drows is the concatenation of the gradients of the parts.
        first, width = gradients[0], sum(gradient.shape[-1] for gradient in gradients)
        joined = (
            first.as_strided((*first.shape[:-1], width), first.stride()) if _are_adjacent(gradients, width) else None
        )
        return torch.cat(gradients, dim=-1) if joined is None else joined, None


def _are_adjacent(tensors: Sequence[Tensor], width: int) -> bool:
    """Whether the tensors are adjacent columns, in this order, of one tensor of this width."""
    first, offset = tensors[0], tensors[0].storage_offset()
    for tensor in tensors:
        same_memory = tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if (
            not same_memory
            or tensor.storage_offset() != offset
            or tensor.stride() != first.stride()
            or tensor.stride(-1) != 1
        ):
            return False
        offset += tensor.shape[-1]
    return first.stride(-2) == width
