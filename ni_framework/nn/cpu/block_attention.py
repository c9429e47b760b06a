"""Attention within groups of different sizes, written for the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ni_framework.nn.cpu.dispatch import HandWritten, way_back


class Block(NamedTuple):
    """Groups of equal size, one after the other."""

    groups: int
    size: int


def block_attention(
    query_RK: Tensor,
    key_RK: Tensor,
    value_RE: Tensor,
    bias_R: Tensor,
    blocks: Sequence[Block],
    positions: Sequence[Tensor],
) -> Tensor:
    """`nn.attention.modulated_attention` within each group of the rows, [R, E]; the rows lie block by block.

    `positions` are [groups, size, size] of each block, or empty. A block is one product: what it costs is the sum of the
    squares of its groups' sizes.
    """
    return _BlockAttention.apply(query_RK, key_RK, value_RE, bias_R, tuple(blocks), *positions)  # pyright: ignore[reportReturnType]


class _BlockAttention(HandWritten):
    @staticmethod
    def forward(
        ctx: Any,
        query_RK: Tensor,
        key_RK: Tensor,
        value_RE: Tensor,
        bias_R: Tensor,
        blocks: tuple[Block, ...],
        *positions: Tensor,
    ) -> Tensor:
        scale = query_RK.shape[-1] ** -0.5
        attended_RE = value_RE.new_empty(value_RE.shape)
        weight_X = query_RK.new_empty(sum(block.groups * block.size**2 for block in blocks))
        views = zip(
            _squares(weight_X, blocks),
            *(_rows(rows, blocks) for rows in (query_RK, key_RK, value_RE, bias_R, attended_RE)),
            strict=True,
        )
        for number, (weight, query, key, value, bias, attended) in enumerate(views):
            torch.baddbmm(weight, query, key.mT, beta=0, alpha=scale, out=weight)
            if positions:
                weight.add_(positions[number], alpha=scale)
            weight += bias.mT
            torch.ops.aten._softmax.out(weight, -1, False, out=weight)
            torch.bmm(weight, value, out=attended)
        ctx.save_for_backward(query_RK, key_RK, value_RE, weight_X)
        ctx.blocks, ctx.with_positions = blocks, bool(positions)
        return attended_RE

    @staticmethod
    @way_back
    def backward(ctx: Any, gradient_RE: Tensor) -> tuple[Tensor | None, ...]:
        query_RK, key_RK, value_RE, weight_X = ctx.saved_tensors
        blocks = ctx.blocks
        scale = query_RK.shape[-1] ** -0.5
        to_query, to_key, to_value = (torch.empty_like(rows) for rows in (query_RK, key_RK, value_RE))
        to_bias, slope_X = query_RK.new_empty(len(query_RK)), torch.empty_like(weight_X)
        slopes, weights = _squares(slope_X, blocks), _squares(weight_X, blocks)
        views = zip(
            slopes,
            weights,
            *(_rows(rows, blocks) for rows in (value_RE, gradient_RE.contiguous(), to_value, to_bias)),
            strict=True,
        )
        for slope, weight, value, gradient, to_value_here, to_bias_here in views:
            torch.bmm(gradient, value.mT, out=slope)
            torch.bmm(weight.mT, gradient, out=to_value_here)
            torch.ops.aten._softmax_backward_data.out(slope, weight, -1, slope.dtype, grad_input=slope)
            torch.sum(slope, dim=1, keepdim=True, out=to_bias_here.mT)
        slope_X *= scale
        views = zip(slopes, *(_rows(rows, blocks) for rows in (query_RK, key_RK, to_query, to_key)), strict=True)
        for slope, query, key, to_query_here, to_key_here in views:
            torch.bmm(slope, key, out=to_query_here)
            torch.bmm(slope.mT, query, out=to_key_here)
        return to_query, to_key, to_value, to_bias, None, *(slopes if ctx.with_positions else ())


def _rows(rows: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """Each block's rows [R, ...] as [groups, size, -1], where they are."""
    parts = rows.split([block.groups * block.size for block in blocks])
    return [part.view(*block, -1) for part, block in zip(parts, blocks, strict=True)]


def _squares(weight_X: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """Each block's [groups, size, size], where they are."""
    parts = weight_X.split([block.groups * block.size**2 for block in blocks])
    return [part.view(*block, block.size) for part, block in zip(parts, blocks, strict=True)]
