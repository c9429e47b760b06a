"""Attention among the elements that a function takes, with queries, keys and values modulated by its code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ni_framework.nn.by_hand import HandWritten, by_hand
from ni_framework.nn.dense import DensePairs
from ni_framework.nn.modlin import Modulation
from ni_framework.nn.side_by_side import side_by_side


class AttentionMaps:
    """The modulated maps to queries, keys and values, in the forms in which they are cheapest to apply.

    Depends on the codes alone, so one forward of a script forms it once for all of its iterations.
    """

    def __init__(self, query: Modulation, key: Modulation, value: Modulation, heads: int) -> None:
        self.query, self.key, self.value, self.heads = query, key, value, heads
        self.together = Modulation(*query.maps, *key.maps, *value.maps)
        self._absorbed_UXD: Tensor | None = None
        self.widths = [len(of.weight_ED) for of in self.together.maps]

    @property
    def wide(self) -> bool:
        """Whether the keys of a head are wider than half an element, so that the elements themselves are cheaper keys."""
        heads_K, width = self.widths[0], self.query.maps[0].weight_ED.shape[1]
        return 2 * heads_K > width * self.heads and self.query.bias_E is None and self.key.bias_E is None

    @property
    def absorbed_UXD(self) -> Tensor:
        """The map from z_i to what z_j is to be multiplied with: q_i . k_j = (W_q s_q z_i) . (W_k s_k z_j) = (A z_i) . z_j.

        [U, H D, D], A = (W_k diag(s_k))^T W_q diag(s_q) of each head.
        """
        if self._absorbed_UXD is None:
            query_UHKD, key_UHKD = (of.folded_UED.unflatten(1, (self.heads, -1)) for of in (self.query, self.key))
            self._absorbed_UXD = (key_UHKD.transpose(-1, -2) @ query_UHKD).flatten(1, 2)
        return self._absorbed_UXD


def mod_attention(z_RD: Tensor, maps: AttentionMaps, position_UHVV: Tensor | None, pairs: Any) -> Tensor:
    """sum_j w_ij v_j of all heads side by side, [R, D] -> [R, H E]: `nn.attention` with queries, keys and values of z.

    `position_UHVV` is added to the unscaled logits; its U may be 1. Source: Neural Interpreters, equations 3 to 5.
    """
    if maps.wide and isinstance(pairs, DensePairs) and by_hand(z_RD, pairs.key_bias):
        bias_E = maps.value.bias_E
        weights = (maps.absorbed_UXD, maps.value.folded_UED, bias_E)
        scale = (maps.widths[0] // maps.heads) ** -0.5
        return _WideKeys.apply(z_RD, *weights, pairs.key_bias, position_UHVV, maps.heads, scale)  # pyright: ignore[reportReturnType]
    rows = side_by_side(pairs.modulate(z_RD, maps.together), maps.widths)
    query_RHK, key_RHK, value_RHE = (of.unflatten(-1, (maps.heads, -1)) for of in rows)
    return pairs.attend(query_RHK, key_RHK, value_RHE, position_UHVV).flatten(-2)


class _WideKeys(HandWritten):
    """Elements as keys, which all heads share, so that a sample's logits are one product; one function after the other."""

    @staticmethod
    def forward(
        ctx: Any,
        z_UBVD: Tensor,
        absorbed_UXD: Tensor,
        value_UED: Tensor,
        value_bias: Tensor | None,
        bias_UBV: Tensor,
        position_UHVV: Tensor | None,
        heads: int,
        scale: float,
    ) -> Tensor:
        functions, samples, elements = bias_UBV.shape
        num_rows, width = samples * elements, z_UBVD.shape[-1]
        query_UBXD = z_UBVD.new_empty(functions, samples, elements * heads, width)
        value_UBVE, attended_UBVE = (
            z_UBVD.new_empty(functions, samples, elements, value_UED.shape[1]) for _ in range(2)
        )
        weight_UBVHV = z_UBVD.new_empty(functions, samples, elements, heads, elements)
        scratch = z_UBVD.new_empty(samples, elements, value_UED.shape[1] // heads)
        for function in range(functions):
            z_BVD = z_UBVD[function % len(z_UBVD)]
            z_RD, weight_BVHV = z_BVD.flatten(0, 1), weight_UBVHV[function]
            torch.mm(z_RD, absorbed_UXD[function].T, out=query_UBXD[function].view(num_rows, -1))
            value_RE = value_UBVE[function].view(num_rows, -1)
            if value_bias is None:
                torch.mm(z_RD, value_UED[function].T, out=value_RE)
            else:
                torch.addmm(value_bias, z_RD, value_UED[function].T, out=value_RE)
            logits_BXV = weight_BVHV.flatten(1, 2)
            torch.baddbmm(logits_BXV, query_UBXD[function], z_BVD.transpose(1, 2), beta=0, alpha=scale, out=logits_BXV)
            if position_UHVV is not None:
                weight_BVHV.add_(position_UHVV[function % len(position_UHVV)].transpose(0, 1), alpha=scale)
            weight_BVHV += bias_UBV[function, :, None, None]
            torch.ops.aten._softmax.out(weight_BVHV, -1, False, out=weight_BVHV)
            value_BVHE, attended_BVHE = (
                rows[function].unflatten(-1, (heads, -1)) for rows in (value_UBVE, attended_UBVE)
            )
            for head in range(heads):
                attended_BVHE[:, :, head] = torch.bmm(weight_BVHV[:, :, head], value_BVHE[:, :, head], out=scratch)
        ctx.save_for_backward(z_UBVD, absorbed_UXD, value_UED, query_UBXD, value_UBVE, weight_UBVHV)
        ctx.with_bias = value_bias is not None
        ctx.positions, ctx.heads, ctx.scale = 0 if position_UHVV is None else len(position_UHVV), heads, scale
        return attended_UBVE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_UBVE: Tensor) -> tuple[Tensor | None, ...]:
        z_UBVD, absorbed_UXD, value_UED, query_UBXD, value_UBVE, weight_UBVHV = ctx.saved_tensors
        heads, scale = ctx.heads, ctx.scale
        functions, samples, elements, _ = query_UBXD.shape[0], *value_UBVE.shape[1:]
        num_rows = samples * elements
        gradient_UBVE = gradient_UBVE.contiguous()
        to_z = torch.zeros_like(z_UBVD)
        to_absorbed, to_value = torch.empty_like(absorbed_UXD), torch.empty_like(value_UED)
        to_value_bias = value_UED.new_zeros(value_UED.shape[1]) if ctx.with_bias else None
        to_bias = z_UBVD.new_empty(functions, samples, elements)
        to_position = z_UBVD.new_zeros(ctx.positions, elements, heads, elements) if ctx.positions else None
        slope_BVHV, to_query_BXD, to_rows_BVE = (
            torch.empty_like(of[0]) for of in (weight_UBVHV, query_UBXD, value_UBVE)
        )
        scratch_BVV = z_UBVD.new_empty(samples, elements, elements)
        scratch_BVE = z_UBVD.new_empty(samples, elements, value_UED.shape[1] // heads)
        for function in range(functions):
            z_BVD, to_z_BVD = z_UBVD[function % len(z_UBVD)], to_z[function % len(z_UBVD)]
            z_RD, to_z_RD, weight_BVHV = z_BVD.flatten(0, 1), to_z_BVD.flatten(0, 1), weight_UBVHV[function]
            value, gradient, to_rows = (
                rows.unflatten(-1, (heads, -1)) for rows in (value_UBVE[function], gradient_UBVE[function], to_rows_BVE)
            )
            for head in range(heads):
                slope_BVHV[:, :, head] = torch.bmm(
                    gradient[:, :, head], value[:, :, head].transpose(1, 2), out=scratch_BVV
                )
                to_rows[:, :, head] = torch.bmm(
                    weight_BVHV[:, :, head].transpose(1, 2), gradient[:, :, head], out=scratch_BVE
                )
            torch.ops.aten._softmax_backward_data.out(
                slope_BVHV, weight_BVHV, -1, slope_BVHV.dtype, grad_input=slope_BVHV
            )
            to_bias[function] = slope_BVHV.sum(dim=(1, 2))
            slope_BVHV *= scale
            if to_position is not None:
                to_position[function % len(to_position)] += slope_BVHV.sum(dim=0)
            slope_BXV = slope_BVHV.flatten(1, 2)
            torch.bmm(slope_BXV, z_BVD, out=to_query_BXD)
            to_z_BVD.baddbmm_(slope_BXV.transpose(1, 2), query_UBXD[function])
            to_query_RX, to_value_RE = to_query_BXD.view(num_rows, -1), to_rows_BVE.flatten(0, 1)
            to_z_RD.addmm_(to_query_RX, absorbed_UXD[function]).addmm_(to_value_RE, value_UED[function])
            torch.mm(to_query_RX.T, z_RD, out=to_absorbed[function])
            torch.mm(to_value_RE.T, z_RD, out=to_value[function])
            if to_value_bias is not None:
                to_value_bias += to_value_RE.sum(dim=0)
        if to_position is not None:
            to_position = to_position.transpose(1, 2)
        return to_z, to_absorbed, to_value, to_value_bias, to_bias, to_position, None, None
