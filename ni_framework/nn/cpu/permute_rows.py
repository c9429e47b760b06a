"""Rows in another order."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ni_framework.nn.cpu.dispatch import HandWritten, way_back


def permuted(rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """Rows [R, ...] in the order [R], of which `back` [R] is the inverse.

    The way back is a selection too: torch, which knows of no inverse, would add row by row.
    """
    return _Permuted.apply(rows, order, back)  # pyright: ignore[reportReturnType]


class _Permuted(HandWritten):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return rows.index_select(0, order)

    @staticmethod
    @way_back
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return gradient.index_select(0, back), None, None
