"""Attention among the elements that a function takes, with queries, keys and values modulated by its code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ni_framework.nn.cpu.dispatch import CpuKernel, first_order_backward, loop_over_functions, use_cpu_kernels
from ni_framework.nn.cpu.matmul import PerFunctionLinear
from ni_framework.nn.cpu.split_columns import split_columns
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.modlin import Modulation


class AttentionMaps:
    """The modulated maps to queries, keys and values, in the forms that are cheapest to apply.

    They depend on the codes alone, so one forward of a script computes them once for all of its iterations.
    """

    def __init__(self, query: Modulation, key: Modulation, value: Modulation, heads: int) -> None:
        self.query, self.key, self.value, self.heads = query, key, value, heads
        self.fused = Modulation(*query.maps, *key.maps, *value.maps)
        self._query_key_UXD: Tensor | None = None
        self.widths = [len(modulated_map.weight_ED) for modulated_map in self.fused.maps]

    def precompute(self) -> None:
        """Computes what is otherwise computed at the first use, for cases where all uses must share one tensor."""
        _ = self.fused.folded_UED
        if self.has_wide_keys:
            _ = self.query_key_UXD, self.value.folded_UED

    @property
    def has_wide_keys(self) -> bool:
        """Whether the keys of a head are wider than half an element, so that the elements themselves are cheaper as keys.

        Queries and keys with a bias are not linear in z, and are computed as they are.
        """
        heads_K, width = self.widths[0], self.query.maps[0].weight_ED.shape[1]
        return 2 * heads_K > width * self.heads and self.query.bias_E is None and self.key.bias_E is None

    @property
    def query_key_UXD(self) -> Tensor:
        """The map A of each head, [U, H D, D], with which q_i . k_j = (W_q s_q z_i) . (W_k s_k z_j) = (A z_i) . z_j.

        A = (W_k diag(s_k))^T W_q diag(s_q).
        """
        if self._query_key_UXD is None:
            query_UHKD, key_UHKD = (
                modulation.folded_UED.unflatten(1, (self.heads, -1)) for modulation in (self.query, self.key)
            )
            self._query_key_UXD = (key_UHKD.transpose(-1, -2) @ query_UHKD).flatten(1, 2)
        return self._query_key_UXD


def mod_attention(z_RD: Tensor, maps: AttentionMaps, position_UHVV: Tensor | None, pairs: Any) -> Tensor:
    """Returns the concatenated heads sum_j w_ij v_j, [R, D] -> [R, H E]: `nn.attention` with queries, keys and values of z.

    Source: Neural Interpreters, equations 3 to 5.

    Args:
        z_RD: the normalised rows.
        maps: the maps to queries, keys and values.
        position_UHVV: added to the unscaled logits; [1, H, V, V] if functions share it, or None.
        pairs: the layout of the rows.
    """
    if (
        maps.has_wide_keys
        and isinstance(pairs, DensePairs)
        and use_cpu_kernels(z_RD, pairs.key_bias)
        and loop_over_functions(z_RD)
    ):
        weights = (maps.query_key_UXD, maps.value.folded_UED, maps.value.bias_E)
        scale = (maps.widths[0] // maps.heads) ** -0.5
        return _WideKeys.apply(z_RD, *weights, pairs.key_bias, position_UHVV, maps.heads, scale)  # pyright: ignore[reportReturnType]
    rows = split_columns(pairs.modulated_linear(z_RD, maps.fused), maps.widths)
    query_RHK, key_RHK, value_RHE = (columns.unflatten(-1, (maps.heads, -1)) for columns in rows)
    return pairs.attention(query_RHK, key_RHK, value_RHE, position_UHVV).flatten(-2)


class _WideKeys(CpuKernel):
    """Attention with the elements z as keys: all heads share them, so that the logits of a sample are one product.

    For each head, q_i = A z_i, v_j = W_v z_j + b_v, l_ij = (q_i . z_j + r_ij) scale + bias_j, w = softmax_j(l), and
    o_i = sum_j w_ij v_j. One function is computed after the other.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z_UBVD: Tensor,
        query_key_UXD: Tensor,
        value_UED: Tensor,
        value_bias: Tensor | None,
        bias_UBV: Tensor,
        position_UHVV: Tensor | None,
        heads: int,
        scale: float,
    ) -> Tensor:
        query_map, value_map = PerFunctionLinear(query_key_UXD, None), PerFunctionLinear(value_UED, value_bias)
        functions, samples, elements = bias_UBV.shape
        query_URX, value_URE, attended_URE = (
            z_UBVD.new_empty(functions, samples * elements, width)
            for width in (query_map.width, value_map.width, value_map.width)
        )
        weight_UBVHV = z_UBVD.new_empty(functions, samples, elements, heads, elements)
        scratch_BVE = z_UBVD.new_empty(samples, elements, value_map.width // heads)
        shape = samples, elements, heads, value_map.width // heads
        for function in range(functions):
            z_BVD, weight_BVHV = z_UBVD[function % len(z_UBVD)], weight_UBVHV[function]
            z_RD = z_BVD.flatten(0, 1)
            query_map.forward(function, z_RD, query_URX[function])
            value_map.forward(function, z_RD, value_URE[function])
            query_BXD, logits_BXV = (
                query_URX[function].view(samples, elements * heads, z_BVD.shape[-1]),
                weight_BVHV.flatten(1, 2),
            )
            torch.baddbmm(logits_BXV, query_BXD, z_BVD.mT, beta=0, alpha=scale, out=logits_BXV)
            if position_UHVV is not None:
                weight_BVHV.add_(position_UHVV[function % len(position_UHVV)].transpose(0, 1), alpha=scale)
            weight_BVHV += bias_UBV[function, :, None, None]
            torch.ops.aten._softmax.out(weight_BVHV, -1, False, out=weight_BVHV)
            value, attended = value_URE[function].view(shape), attended_URE[function].view(shape)
            for head in range(heads):
                attended[:, :, head] = torch.bmm(weight_BVHV[:, :, head], value[:, :, head], out=scratch_BVE)
        ctx.save_for_backward(z_UBVD, query_key_UXD, value_UED, value_bias, query_URX, value_URE, weight_UBVHV)
        ctx.positions, ctx.scale = 0 if position_UHVV is None else len(position_UHVV), scale
        return attended_URE.view(functions, samples, elements, value_map.width)

    @staticmethod
    @first_order_backward
    def backward(ctx: Any, gradient_UBVE: Tensor) -> tuple[Tensor | None, ...]:
        z_UBVD, query_key_UXD, value_UED, value_bias, query_URX, value_URE, weight_UBVHV = ctx.saved_tensors
        query_map, value_map = PerFunctionLinear(query_key_UXD, None), PerFunctionLinear(value_UED, value_bias)
        functions, samples, elements, heads, _ = weight_UBVHV.shape
        shape = samples, elements, heads, value_map.width // heads
        grad_z = z_UBVD.new_zeros(z_UBVD.shape)
        grad_bias = z_UBVD.new_empty(functions, samples, elements)
        grad_position = z_UBVD.new_zeros(ctx.positions, elements, heads, elements) if ctx.positions else None
        grad_logits_BVHV = torch.empty_like(weight_UBVHV[0])
        grad_logits_BXV = grad_logits_BVHV.flatten(1, 2)
        gradient_query_BXD = z_UBVD.new_empty(samples, elements * heads, z_UBVD.shape[-1])
        gradient_value_RE = torch.empty_like(value_URE[0])
        scratch_BVV, scratch_BVE = (
            z_UBVD.new_empty(samples, elements, elements),
            z_UBVD.new_empty(*shape[:2], shape[-1]),
        )
        gradient_UBVE = gradient_UBVE.contiguous()
        for function in range(functions):
            z_BVD, grad_z_BVD = z_UBVD[function % len(z_UBVD)], grad_z[function % len(z_UBVD)]
            z_RD, grad_z_RD, weight_BVHV = z_BVD.flatten(0, 1), grad_z_BVD.flatten(0, 1), weight_UBVHV[function]
            value, gradient, gradient_value = (
                rows.view(shape) for rows in (value_URE[function], gradient_UBVE[function], gradient_value_RE)
            )
            for head in range(heads):
                # dL/dw_ij = g_i . v_j and dL/dv_j = sum_i w_ij g_i.
                grad_logits_BVHV[:, :, head] = torch.bmm(gradient[:, :, head], value[:, :, head].mT, out=scratch_BVV)
                gradient_value[:, :, head] = torch.bmm(
                    weight_BVHV[:, :, head].mT, gradient[:, :, head], out=scratch_BVE
                )
            # dL/dl_ij = w_ij (dL/dw_ij - sum_k w_ik dL/dw_ik).
            torch.ops.aten._softmax_backward_data.out(
                grad_logits_BVHV, weight_BVHV, -1, grad_logits_BVHV.dtype, grad_input=grad_logits_BVHV
            )
            # dL/dbias_j = sum over heads and i of dL/dl_ij.
            grad_bias[function] = grad_logits_BVHV.sum(dim=(1, 2))
            grad_logits_BVHV *= ctx.scale
            # dL/dr_ij = sum over samples of scale dL/dl_ij.
            if grad_position is not None:
                grad_position[function % len(grad_position)] += grad_logits_BVHV.sum(dim=0)
            # z is read three times, and its gradient has three terms. As keys: scale sum over heads and i of dL/dl_ij q_i.
            grad_z_BVD.baddbmm_(grad_logits_BXV.mT, query_URX[function].view(gradient_query_BXD.shape))
            # dL/dq_i = scale sum_j dL/dl_ij z_j. Through the queries: A^T dL/dq_i; through the values: W_v^T dL/dv_j.
            torch.bmm(grad_logits_BXV, z_BVD, out=gradient_query_BXD)
            query_map.backward(function, gradient_query_BXD.view(query_URX[0].shape), z_RD, grad_z_RD, add=True)
            value_map.backward(function, gradient_value_RE, z_RD, grad_z_RD, add=True)
        if grad_position is not None:
            grad_position = grad_position.transpose(1, 2)
        return grad_z, query_map.gradients[0], *value_map.gradients, grad_bias, grad_position, None, None
