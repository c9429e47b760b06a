"""Attention among the elements that a function takes, with queries, keys and values modulated by its code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ni_framework.nn.cpu.dispatch import HandWritten, by_hand, one_by_one, way_back
from ni_framework.nn.cpu.matmul import Folded
from ni_framework.nn.cpu.split_columns import side_by_side
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.modlin import Modulation


class AttentionMaps:
    """The modulated maps to queries, keys and values, in the forms in which they are cheapest to apply.

    Depends on the codes alone, so one forward of a script forms it once for all of its iterations.
    """

    def __init__(self, query: Modulation, key: Modulation, value: Modulation, heads: int) -> None:
        self.query, self.key, self.value, self.heads = query, key, value, heads
        self.together = Modulation(*query.maps, *key.maps, *value.maps)
        self._absorbed_UXD: Tensor | None = None
        self.widths = [len(of.weight_ED) for of in self.together.maps]

    def form(self) -> None:
        """Forms what one iteration would form for all, where each has to find the same."""
        _ = self.together.folded_UED
        if self.wide:
            _ = self.absorbed_UXD, self.value.folded_UED

    @property
    def wide(self) -> bool:
        """Whether the keys of a head are wider than half an element, so that the elements themselves are cheaper keys.

        Where queries or keys have a bias they are no map of z alone, and stay what they are.
        """
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
    if maps.wide and isinstance(pairs, DensePairs) and by_hand(z_RD, pairs.key_bias) and one_by_one(z_RD):
        weights = (maps.absorbed_UXD, maps.value.folded_UED, maps.value.bias_E)
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
        to_query, to_value = Folded(absorbed_UXD, None), Folded(value_UED, value_bias)
        functions, samples, elements = bias_UBV.shape
        query_URX, value_URE, attended_URE = (
            z_UBVD.new_empty(functions, samples * elements, width)
            for width in (to_query.width, to_value.width, to_value.width)
        )
        weight_UBVHV = z_UBVD.new_empty(functions, samples, elements, heads, elements)
        scratch_BVE = z_UBVD.new_empty(samples, elements, to_value.width // heads)
        shape = samples, elements, heads, to_value.width // heads
        for function in range(functions):
            z_BVD, weight_BVHV = z_UBVD[function % len(z_UBVD)], weight_UBVHV[function]
            z_RD = z_BVD.flatten(0, 1)
            to_query.forward(function, z_RD, query_URX[function])
            to_value.forward(function, z_RD, value_URE[function])
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
        ctx.save_for_backward(z_UBVD, absorbed_UXD, value_UED, value_bias, query_URX, value_URE, weight_UBVHV)
        ctx.positions, ctx.scale = 0 if position_UHVV is None else len(position_UHVV), scale
        return attended_URE.view(functions, samples, elements, to_value.width)

    @staticmethod
    @way_back
    def backward(ctx: Any, gradient_UBVE: Tensor) -> tuple[Tensor | None, ...]:
        z_UBVD, absorbed_UXD, value_UED, value_bias, query_URX, value_URE, weight_UBVHV = ctx.saved_tensors
        to_query, to_value = Folded(absorbed_UXD, None), Folded(value_UED, value_bias)
        functions, samples, elements, heads, _ = weight_UBVHV.shape
        shape = samples, elements, heads, to_value.width // heads
        to_z = z_UBVD.new_zeros(z_UBVD.shape)
        to_bias = z_UBVD.new_empty(functions, samples, elements)
        to_position = z_UBVD.new_zeros(ctx.positions, elements, heads, elements) if ctx.positions else None
        slope_BVHV = torch.empty_like(weight_UBVHV[0])
        slope_BXV = slope_BVHV.flatten(1, 2)
        gradient_query_BXD = z_UBVD.new_empty(samples, elements * heads, z_UBVD.shape[-1])
        gradient_value_RE = torch.empty_like(value_URE[0])
        scratch_BVV, scratch_BVE = (
            z_UBVD.new_empty(samples, elements, elements),
            z_UBVD.new_empty(*shape[:2], shape[-1]),
        )
        gradient_UBVE = gradient_UBVE.contiguous()
        for function in range(functions):
            z_BVD, to_z_BVD = z_UBVD[function % len(z_UBVD)], to_z[function % len(z_UBVD)]
            z_RD, to_z_RD, weight_BVHV = z_BVD.flatten(0, 1), to_z_BVD.flatten(0, 1), weight_UBVHV[function]
            value, gradient, gradient_value = (
                rows.view(shape) for rows in (value_URE[function], gradient_UBVE[function], gradient_value_RE)
            )
            for head in range(heads):
                slope_BVHV[:, :, head] = torch.bmm(gradient[:, :, head], value[:, :, head].mT, out=scratch_BVV)
                gradient_value[:, :, head] = torch.bmm(
                    weight_BVHV[:, :, head].mT, gradient[:, :, head], out=scratch_BVE
                )
            torch.ops.aten._softmax_backward_data.out(
                slope_BVHV, weight_BVHV, -1, slope_BVHV.dtype, grad_input=slope_BVHV
            )
            to_bias[function] = slope_BVHV.sum(dim=(1, 2))
            slope_BVHV *= ctx.scale
            if to_position is not None:
                to_position[function % len(to_position)] += slope_BVHV.sum(dim=0)
            # z is read three times: as keys, by the queries, and by the values.
            to_z_BVD.baddbmm_(slope_BXV.mT, query_URX[function].view(gradient_query_BXD.shape))
            torch.bmm(slope_BXV, z_BVD, out=gradient_query_BXD)
            to_query.backward(function, gradient_query_BXD.view(query_URX[0].shape), z_RD, to_z_RD, add=True)
            to_value.backward(function, gradient_value_RE, z_RD, to_z_RD, add=True)
        if to_position is not None:
            to_position = to_position.transpose(1, 2)
        return to_z, to_query.gradients[0], *to_value.gradients, to_bias, to_position, None, None
