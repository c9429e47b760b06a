"""A permutation of rows whose backward pass is a selection."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ni_framework.nn.cpu.dispatch import CpuKernel, first_order_backward


def permute_rows(rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Returns the rows in another order.

    The backward pass is a selection, too. Torch does not have the inverse, and would add the gradient row by row.

    Args:
        rows: [R, ...].
        order: [R], the row that comes to each place.
        inverse: [R], the inverse permutation.
    """
    return _PermuteRows.apply(rows, order, inverse)  # pyright: ignore[reportReturnType]


class _PermuteRows(CpuKernel):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    @first_order_backward
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        # y_n = x_order(n), so dL/dx_n = g_inverse(n).
        return gradient.index_select(0, inverse), None, None
