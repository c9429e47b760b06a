"""What follows attention in a line of code: two residuals, and an MLP of modulated maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.nn.cpu.dispatch import HandWritten, by_hand, one_by_one, way_back
from ni_framework.nn.cpu.matmul import Folded, Scaled, scaled_maps
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.nn.modlin import Modulation


def rest_of_line(
    x_RD: Tensor,
    attended_RD: Tensor,
    norm: nn.LayerNorm,
    maps: tuple[Modulation, Modulation, Modulation],
    pairs: Any,
) -> Tensor:
    """a = x + c W_o(attended), y = a + c W_2(gelu(W_1(norm(a)))): [R, D] -> [R, D]; the code modulates the maps.

    Source: Neural Interpreters, equations 3, 6 and 7.
    """
    c_R1 = pairs.compatibility
    if by_hand(x_RD, attended_RD, c_R1, norm.weight):
        if isinstance(pairs, DensePairs) and one_by_one(attended_RD):
            rows = (rows.flatten(1, 2) for rows in (x_RD, attended_RD, c_R1))
            tensors = [tensor for of in maps for tensor in (of.folded_UED, of.bias_E)]
            y_UXD = _RestOfLine.apply(*rows, None, norm.weight, norm.bias, norm.eps, *tensors)
            return y_UXD.unflatten(1, attended_RD.shape[1:3])  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(pairs, PackedPairs):
            rows = (rows.unsqueeze(0) for rows in (x_RD, attended_RD, c_R1))
            tensors = [tensor for of in maps for tensor in of.maps[0]]
            y_1PD = _RestOfLine.apply(*rows, pairs.function_P, norm.weight, norm.bias, norm.eps, *tensors)
            return y_1PD.squeeze(0)  # pyright: ignore[reportAttributeAccessIssue]
    out, first, second = maps
    a_RD = torch.addcmul(x_RD, c_R1, pairs.modulate(attended_RD, out))
    hidden_RE = F.gelu(pairs.modulate(norm(a_RD), first))
    return torch.addcmul(a_RD, c_R1, pairs.modulate(hidden_RE, second))


class _RestOfLine(HandWritten):
    """Rows [Z, X, D] in Z parts, one after the other, so that what passes between two products is still in the cache.

    In the dense layout a part is a function; the packed one has a single part. Only a and the hidden layer before its
    activation are kept for the way back; the rest is cheaper to compute again than to fetch. The gradient of c_i needs
    <g, W h + b>, which is <W^T g, h> + <g, b>, and W^T g is there anyway.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ZXD: Tensor,
        attended_ZXE: Tensor,
        c_ZX1: Tensor,
        function_P: Tensor | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        eps: float,
        *tensors: Tensor | None,
    ) -> Tensor:
        out, first, second = _maps(function_P, tensors)
        parts, num_rows, width = len(attended_ZXE), *x_ZXD.shape[1:]
        a_ZXD, y_ZXD = (x_ZXD.new_empty(parts, num_rows, width) for _ in range(2))
        hidden_ZXE = x_ZXD.new_empty(parts, num_rows, first.width)
        scratch_XD, active_XE = torch.empty_like(a_ZXD[0]), torch.empty_like(hidden_ZXE[0])
        for part, (attended_XE, c_X1, a_XD, hidden_XE, y_XD) in enumerate(
            zip(attended_ZXE, c_ZX1, a_ZXD, hidden_ZXE, y_ZXD, strict=True)
        ):
            out.forward(part, attended_XE, scratch_XD)
            torch.addcmul(x_ZXD[part % len(x_ZXD)], c_X1, scratch_XD, out=a_XD)
            z_XD, _, _ = torch.native_layer_norm(a_XD, (width,), norm_weight, norm_bias, eps)
            first.forward(part, z_XD, hidden_XE)
            torch.ops.aten.gelu.out(hidden_XE, out=active_XE)
            second.forward(part, active_XE, scratch_XD)
            torch.addcmul(a_XD, c_X1, scratch_XD, out=y_XD)
        ctx.save_for_backward(attended_ZXE, c_ZX1, a_ZXD, hidden_ZXE, function_P, norm_weight, norm_bias, *tensors)
        ctx.eps, ctx.parts_of_x = eps, len(x_ZXD)
        return y_ZXD

    @staticmethod
    @way_back
    def backward(ctx: Any, gradient_ZXD: Tensor) -> tuple[Tensor | None, ...]:
        attended_ZXE, c_ZX1, a_ZXD, hidden_ZXE, function_P, norm_weight, norm_bias, *tensors = ctx.saved_tensors
        out, first, second = maps = _maps(function_P, tensors)
        width = a_ZXD.shape[-1]
        to_x = a_ZXD.new_zeros(ctx.parts_of_x, *a_ZXD.shape[1:])
        to_attended, to_c = torch.empty_like(attended_ZXE), torch.empty_like(c_ZX1)
        to_norm_weight, to_norm_bias = torch.zeros_like(norm_weight), torch.zeros_like(norm_bias)
        scratch_XD = torch.empty_like(a_ZXD[0])
        active_XE, slope_XE, scratch_XE = (torch.empty_like(hidden_ZXE[0]) for _ in range(3))
        scratch_XF = torch.empty_like(attended_ZXE[0])
        for part, (gradient_XD, attended_XE, c_X1, a_XD, hidden_XE, to_attended_XE, to_c_X1) in enumerate(
            zip(gradient_ZXD, attended_ZXE, c_ZX1, a_ZXD, hidden_ZXE, to_attended, to_c, strict=True)
        ):
            # y = a + c (W_2 gelu(hidden) + b_2)
            torch.ops.aten.gelu.out(hidden_XE, out=active_XE)
            torch.mul(active_XE, c_X1, out=scratch_XE)
            second.backward(part, gradient_XD, scratch_XE, slope_XE, row_scale_X1=c_X1)
            to_c_X1.copy_(_along(slope_XE, active_XE, gradient_XD, second.bias_E))
            slope_XE *= c_X1
            torch.ops.aten.gelu_backward.grad_input(slope_XE, hidden_XE, grad_input=slope_XE)
            # hidden = W_1 norm(a) + b_1
            z_XD, mean_X1, deviation_X1 = torch.native_layer_norm(a_XD, (width,), norm_weight, norm_bias, ctx.eps)
            first.backward(part, slope_XE, z_XD, scratch_XD)
            through_XD, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
                scratch_XD, a_XD, (width,), mean_X1, deviation_X1, norm_weight, norm_bias, (True, True, True)
            )
            to_norm_weight += of_weight
            to_norm_bias += of_bias
            through_XD += gradient_XD
            to_x[part % len(to_x)] += through_XD
            # a = x + c (W_o attended + b_o)
            torch.mul(attended_XE, c_X1, out=scratch_XF)
            out.backward(part, through_XD, scratch_XF, to_attended_XE, row_scale_X1=c_X1)
            to_c_X1 += _along(to_attended_XE, attended_XE, through_XD, out.bias_E)
            to_attended_XE *= c_X1
        gradients = (gradient for linear in maps for gradient in linear.gradients)
        return to_x, to_attended, to_c, None, to_norm_weight, to_norm_bias, None, *gradients


def _maps(function_P: Tensor | None, tensors: Sequence[Any]) -> list[Folded] | list[Scaled]:
    """The three maps: of all functions together where a row's is given, one function after the other otherwise."""
    if function_P is None:
        return [Folded(*tensors[place : place + 2]) for place in range(0, 6, 2)]
    return scaled_maps(function_P, tensors)


def _along(to_h_XE: Tensor, h_XE: Tensor, gradient_XD: Tensor, bias_D: Tensor | None) -> Tensor:
    """<g, W h + b> of each row, [X, 1], from W^T g: how a loss changes with what W h + b is multiplied by."""
    along_X = torch.linalg.vecdot(to_h_XE, h_XE)
    return (along_X if bias_D is None else along_X.addmv_(gradient_XD, bias_D)).unsqueeze(1)
