"""Attention of all functions among all elements, written for the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ni_framework.nn.cpu.dispatch import HandWritten, way_back


def dense_attention(
    query_UBVHK: Tensor, key_UBVHK: Tensor, value_UBVHE: Tensor, bias_UBV: Tensor, position_UHVV: Tensor | None
) -> Tensor:
    """`nn.attention.modulated_attention` within each function and sample, [U, B, V, H, E]; the U of positions may be 1."""
    return _DenseAttention.apply(query_UBVHK, key_UBVHK, value_UBVHE, bias_UBV, position_UHVV)  # pyright: ignore[reportReturnType]


class _DenseAttention(HandWritten):
    """One function after the other, so that its logits stay in the cache. Heads are read where they lie, in rows [H, K]: a
    product of matrices needs no copy if only the samples are a batch."""

    @staticmethod
    def forward(
        ctx: Any,
        query_UBVHK: Tensor,
        key_UBVHK: Tensor,
        value_UBVHE: Tensor,
        bias_UBV: Tensor,
        position_UHVV: Tensor | None,
    ) -> Tensor:
        functions, samples, elements, heads, width = query_UBVHK.shape
        scale = width**-0.5
        attended_UBVHE = value_UBVHE.new_empty(value_UBVHE.shape)
        weight_UHBVV = query_UBVHK.new_empty(functions, heads, samples, elements, elements)
        scratch_BVE = value_UBVHE.new_empty(samples, elements, value_UBVHE.shape[-1])
        for function in range(functions):
            query, key, value = query_UBVHK[function], key_UBVHK[function], value_UBVHE[function]
            weight_HBVV, attended = weight_UHBVV[function], attended_UBVHE[function]
            for head, logits in enumerate(weight_HBVV):
                torch.baddbmm(logits, query[:, :, head], key[:, :, head].mT, beta=0, alpha=scale, out=logits)
            if position_UHVV is not None:
                weight_HBVV.add_(position_UHVV[function % len(position_UHVV)].unsqueeze(1), alpha=scale)
            weight_HBVV += bias_UBV[function].unsqueeze(1)
            torch.ops.aten._softmax.out(weight_HBVV, -1, False, out=weight_HBVV)
            for head, weight in enumerate(weight_HBVV):
                attended[:, :, head] = torch.bmm(weight, value[:, :, head], out=scratch_BVE)
        ctx.save_for_backward(query_UBVHK, key_UBVHK, value_UBVHE, weight_UHBVV)
        ctx.positions, ctx.scale = 0 if position_UHVV is None else len(position_UHVV), scale
        return attended_UBVHE

    @staticmethod
    @way_back
    def backward(ctx: Any, gradient_UBVHE: Tensor) -> tuple[Tensor | None, ...]:
        query_UBVHK, key_UBVHK, value_UBVHE, weight_UHBVV = ctx.saved_tensors
        functions, samples, elements, heads, width = query_UBVHK.shape
        # Side by side, as the maps that made them may be.
        widths = [heads * width, heads * width, heads * value_UBVHE.shape[-1]]
        to_rows = query_UBVHK.new_empty(functions, samples, elements, sum(widths)).split(widths, dim=-1)
        to_query, to_key, to_value = (rows.unflatten(-1, (heads, -1)) for rows in to_rows)
        to_bias = query_UBVHK.new_empty(functions, samples, elements)
        to_position = query_UBVHK.new_zeros(ctx.positions, heads, elements, elements) if ctx.positions else None
        slope_HBVV = torch.empty_like(weight_UHBVV[0])
        scratch_BVK, scratch_BVE = (rows.new_empty(samples, elements, rows.shape[-1]) for rows in (to_key, to_value))
        gradient_UBVHE = gradient_UBVHE.contiguous()
        for function in range(functions):
            query, key, value, gradient, weight_HBVV = (
                of[function] for of in (query_UBVHK, key_UBVHK, value_UBVHE, gradient_UBVHE, weight_UHBVV)
            )
            for head in range(heads):
                torch.bmm(gradient[:, :, head], value[:, :, head].mT, out=slope_HBVV[head])
                to_value[function, :, :, head] = torch.bmm(weight_HBVV[head].mT, gradient[:, :, head], out=scratch_BVE)
            torch.ops.aten._softmax_backward_data.out(
                slope_HBVV, weight_HBVV, -1, slope_HBVV.dtype, grad_input=slope_HBVV
            )
            to_bias[function] = slope_HBVV.sum(dim=2).sum(dim=0)  # faster than over both at once
            slope_HBVV *= ctx.scale
            if to_position is not None:
                to_position[function % len(to_position)] += slope_HBVV.sum(dim=1)
            for head, slope in enumerate(slope_HBVV):
                to_query[function, :, :, head] = torch.bmm(slope, key[:, :, head], out=scratch_BVK)
                to_key[function, :, :, head] = torch.bmm(slope.mT, query[:, :, head], out=scratch_BVK)
        return to_query, to_key, to_value, to_bias, to_position
