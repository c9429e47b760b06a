"""Attention within groups of different sizes, written for the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ni_framework.nn.cpu.dispatch import CpuKernel, first_order_backward


class Block(NamedTuple):
    """Consecutive groups of equal size."""

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
    """Computes `nn.attention.modulated_attention` within each group of rows, [R, E].

    A block is one batched product; its cost is the sum of the squares of its groups' sizes.

    Args:
        query_RK: queries; rows are in the order block, group, element.
        key_RK: keys.
        value_RE: values.
        bias_R: the key bias of each row (`nn.attention.key_bias`).
        blocks: the blocks, in the order of the rows.
        positions: unscaled logits [groups, size, size] for each block, or empty.
    """
    return _BlockAttention.apply(query_RK, key_RK, value_RE, bias_R, tuple(blocks), *positions)  # pyright: ignore[reportReturnType]


class _BlockAttention(CpuKernel):
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
            _block_squares(weight_X, blocks),
            *(_block_rows(rows, blocks) for rows in (query_RK, key_RK, value_RE, bias_R, attended_RE)),
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
    @first_order_backward
    def backward(ctx: Any, gradient_RE: Tensor) -> tuple[Tensor | None, ...]:
        query_RK, key_RK, value_RE, weight_X = ctx.saved_tensors
        blocks = ctx.blocks
        scale = query_RK.shape[-1] ** -0.5
        grad_query, grad_key, grad_value = (torch.empty_like(rows) for rows in (query_RK, key_RK, value_RE))
        grad_bias, grad_logits_X = query_RK.new_empty(len(query_RK)), torch.empty_like(weight_X)
        grad_logits_blocks, weights = _block_squares(grad_logits_X, blocks), _block_squares(weight_X, blocks)
        views = zip(
            grad_logits_blocks,
            weights,
            *(_block_rows(rows, blocks) for rows in (value_RE, gradient_RE.contiguous(), grad_value, grad_bias)),
            strict=True,
        )
        for grad_logits, weight, value, gradient, grad_value_block, grad_bias_block in views:
            # o_i = sum_j w_ij v_j, so dL/dw_ij = g_i . v_j and dL/dv_j = sum_i w_ij g_i.
            torch.bmm(gradient, value.mT, out=grad_logits)
            torch.bmm(weight.mT, gradient, out=grad_value_block)
            # w = softmax_j(l), so dL/dl_ij = w_ij (dL/dw_ij - sum_k w_ik dL/dw_ik).
            torch.ops.aten._softmax_backward_data.out(
                grad_logits, weight, -1, grad_logits.dtype, grad_input=grad_logits
            )
            # l_ij = (q_i . k_j + r_ij) scale + bias_j, so dL/dbias_j = sum_i dL/dl_ij.
            torch.sum(grad_logits, dim=1, keepdim=True, out=grad_bias_block.mT)
        # dL/dr_ij = scale dL/dl_ij.
        grad_logits_X *= scale
        views = zip(
            grad_logits_blocks,
            *(_block_rows(rows, blocks) for rows in (query_RK, key_RK, grad_query, grad_key)),
            strict=True,
        )
        for grad_logits, query, key, grad_query_block, grad_key_block in views:
            # dL/dq_i = scale sum_j dL/dl_ij k_j, and dL/dk_j = scale sum_i dL/dl_ij q_i.
            torch.bmm(grad_logits, key, out=grad_query_block)
            torch.bmm(grad_logits.mT, query, out=grad_key_block)
        return grad_query, grad_key, grad_value, grad_bias, None, *(grad_logits_blocks if ctx.with_positions else ())


def _block_rows(rows: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """Returns views [groups, size, -1] of each block's rows [R, ...]."""
    parts = rows.split([block.groups * block.size for block in blocks])
    return [part.view(*block, -1) for part, block in zip(parts, blocks, strict=True)]


def _block_squares(weight_X: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """Returns views [groups, size, size] of each block's weights."""
    parts = weight_X.split([block.groups * block.size**2 for block in blocks])
    return [part.view(*block, block.size) for part, block in zip(parts, blocks, strict=True)]
