"""Several tensors side by side in one, without a copy on the way forward or back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ni_framework.nn.cpu.dispatch import HandWritten, by_hand, way_back


def side_by_side(rows: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """The parts [..., width] of rows [..., sum of widths], as views.

    Gradients that come back as parts of one tensor are taken as that tensor; torch's own split would copy them together.
    """
    if not by_hand(rows):
        return rows.split(tuple(widths), dim=-1)
    return _SideBySide.apply(rows, tuple(widths))  # pyright: ignore[reportReturnType]


class _SideBySide(HandWritten):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, widths: tuple[int, ...]) -> tuple[Tensor, ...]:
        return rows.split(widths, dim=-1)

    @staticmethod
    @way_back
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        first, width = gradients[0], sum(gradient.shape[-1] for gradient in gradients)
        whole = first.as_strided((*first.shape[:-1], width), first.stride()) if _adjacent(gradients, width) else None
        return torch.cat(gradients, dim=-1) if whole is None else whole, None


def _adjacent(parts: Sequence[Tensor], width: int) -> bool:
    """Whether parts lie one after the other in the rows of one tensor of this width."""
    first, place = parts[0], parts[0].storage_offset()
    for part in parts:
        same_memory = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same_memory or part.storage_offset() != place or part.stride() != first.stride() or part.stride(-1) != 1:
            return False
        place += part.shape[-1]
    return first.stride(-2) == width
