"""Attention of all functions among all elements, written for the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ni_framework.nn.cpu.dispatch import CpuKernel, first_order_backward


def dense_attention(
    query_UBVHK: Tensor, key_UBVHK: Tensor, value_UBVHE: Tensor, bias_UBV: Tensor, position_UHVV: Tensor | None
) -> Tensor:
    """Computes `nn.attention.modulated_attention` within each function and sample, [U, B, V, H, E].

    Args:
        query_UBVHK: queries.
        key_UBVHK: keys.
        value_UBVHE: values.
        bias_UBV: the key bias (`nn.attention.key_bias`).
        position_UHVV: unscaled logits of positions, [1, H, V, V] if functions share them, or None.
    """
    return _DenseAttention.apply(query_UBVHK, key_UBVHK, value_UBVHE, bias_UBV, position_UHVV)  # pyright: ignore[reportReturnType]


class _DenseAttention(CpuKernel):
    """Computes one function after the other, so that its logits stay in the cache.

    Heads are read in place from rows [H, K]: a batched product needs no copy if the samples are its only batch dimension.
    """

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
    @first_order_backward
    def backward(ctx: Any, gradient_UBVHE: Tensor) -> tuple[Tensor | None, ...]:
        query_UBVHK, key_UBVHK, value_UBVHE, weight_UHBVV = ctx.saved_tensors
        functions, samples, elements, heads, width = query_UBVHK.shape
        # Adjacent columns of one tensor, because the maps that made the rows may be concatenated (`split_columns`).
        widths = [heads * width, heads * width, heads * value_UBVHE.shape[-1]]
        grad_rows = query_UBVHK.new_empty(functions, samples, elements, sum(widths)).split(widths, dim=-1)
        grad_query, grad_key, grad_value = (rows.unflatten(-1, (heads, -1)) for rows in grad_rows)
        grad_bias = query_UBVHK.new_empty(functions, samples, elements)
        grad_position = query_UBVHK.new_zeros(ctx.positions, heads, elements, elements) if ctx.positions else None
        grad_logits_HBVV = torch.empty_like(weight_UHBVV[0])
        scratch_BVK, scratch_BVE = (
            rows.new_empty(samples, elements, rows.shape[-1]) for rows in (grad_key, grad_value)
        )
        gradient_UBVHE = gradient_UBVHE.contiguous()
        for function in range(functions):
            query, key, value, gradient, weight_HBVV = (
                rows[function] for rows in (query_UBVHK, key_UBVHK, value_UBVHE, gradient_UBVHE, weight_UHBVV)
            )
            for head in range(heads):
                # o_i = sum_j w_ij v_j, so dL/dw_ij = g_i . v_j and dL/dv_j = sum_i w_ij g_i.
                torch.bmm(gradient[:, :, head], value[:, :, head].mT, out=grad_logits_HBVV[head])
                grad_value[function, :, :, head] = torch.bmm(
                    weight_HBVV[head].mT, gradient[:, :, head], out=scratch_BVE
                )
            # w = softmax_j(l), so dL/dl_ij = w_ij (dL/dw_ij - sum_k w_ik dL/dw_ik).
            torch.ops.aten._softmax_backward_data.out(
                grad_logits_HBVV, weight_HBVV, -1, grad_logits_HBVV.dtype, grad_input=grad_logits_HBVV
            )
            # l_ij = (q_i . k_j + r_ij) scale + bias_j, so dL/dbias_j = sum over heads and i of dL/dl_ij.
            # Two sums are faster than one over both dimensions.
            grad_bias[function] = grad_logits_HBVV.sum(dim=2).sum(dim=0)
            grad_logits_HBVV *= ctx.scale
            # dL/dr_ij = sum over samples of scale dL/dl_ij.
            if grad_position is not None:
                grad_position[function % len(grad_position)] += grad_logits_HBVV.sum(dim=1)
            for head, grad_logits in enumerate(grad_logits_HBVV):
                # dL/dq_i = scale sum_j dL/dl_ij k_j, and dL/dk_j = scale sum_i dL/dl_ij q_i.
                grad_query[function, :, :, head] = torch.bmm(grad_logits, key[:, :, head], out=scratch_BVK)
                grad_key[function, :, :, head] = torch.bmm(grad_logits.mT, query[:, :, head], out=scratch_BVK)
        return grad_query, grad_key, grad_value, grad_bias, grad_position
