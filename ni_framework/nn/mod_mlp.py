"""The part of a line of code after attention: two residuals, and an MLP of modulated maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.nn.cpu.dispatch import CpuKernel, first_order_backward, loop_over_functions, use_cpu_kernels
from ni_framework.nn.cpu.matmul import PerFunctionLinear, ScaledLinear, build_scaled_maps
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.nn.modlin import Modulation


def fused_line_tail(
    x_RD: Tensor,
    attended_RD: Tensor,
    norm: nn.LayerNorm,
    maps: tuple[Modulation, Modulation, Modulation],
    pairs: Any,
) -> Tensor:
    """Returns y = a + c W_2(gelu(W_1(norm(a)))) with a = x + c W_o(attended), [R, D] -> [R, D].

    Source: Neural Interpreters, equations 3, 6 and 7.

    Args:
        x_RD: the input x of the line of code.
        attended_RD: the result of attention.
        norm: the norm before the MLP.
        maps: W_o, W_1 and W_2, which the code modulates.
        pairs: the layout of the rows.
    """
    c_R1 = pairs.compatibility
    if use_cpu_kernels(x_RD, attended_RD, c_R1, norm.weight):
        if isinstance(pairs, DensePairs) and loop_over_functions(attended_RD):
            rows = (rows.flatten(1, 2) for rows in (x_RD, attended_RD, c_R1))
            tensors = [tensor for modulation in maps for tensor in (modulation.folded_UED, modulation.bias_E)]
            y_UXD = _FusedLineTail.apply(*rows, None, norm.weight, norm.bias, norm.eps, *tensors)
            return y_UXD.unflatten(1, attended_RD.shape[1:3])  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(pairs, PackedPairs):
            rows = (rows.unsqueeze(0) for rows in (x_RD, attended_RD, c_R1))
            tensors = [tensor for modulation in maps for tensor in modulation.maps[0]]
            y_1PD = _FusedLineTail.apply(*rows, pairs.function_P, norm.weight, norm.bias, norm.eps, *tensors)
            return y_1PD.squeeze(0)  # pyright: ignore[reportAttributeAccessIssue]
    out, first, second = maps
    a_RD = torch.addcmul(x_RD, c_R1, pairs.modulated_linear(attended_RD, out))
    hidden_RE = F.gelu(pairs.modulated_linear(norm(a_RD), first))
    return torch.addcmul(a_RD, c_R1, pairs.modulated_linear(hidden_RE, second))


class _FusedLineTail(CpuKernel):
    """Computes rows [Z, X, D] in Z groups, one after the other, so that the input of each product is still in the cache.

    In the dense layout a group is a function; the packed layout has a single group. For the backward pass, only a and the
    hidden layer before its activation are saved; the rest is cheaper to compute again than to read. The gradient of c_i needs
    <g, W h + b>. It is computed as <W^T g, h> + <g, b>, because W^T g is computed anyway.
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
        out, first, second = _build_line_maps(function_P, tensors)
        num_groups, num_rows, width = len(attended_ZXE), *x_ZXD.shape[1:]
        a_ZXD, y_ZXD = (x_ZXD.new_empty(num_groups, num_rows, width) for _ in range(2))
        hidden_ZXE = x_ZXD.new_empty(num_groups, num_rows, first.width)
        scratch_XD, active_XE = torch.empty_like(a_ZXD[0]), torch.empty_like(hidden_ZXE[0])
        for group, (attended_XE, c_X1, a_XD, hidden_XE, y_XD) in enumerate(
            zip(attended_ZXE, c_ZX1, a_ZXD, hidden_ZXE, y_ZXD, strict=True)
        ):
            out.forward(group, attended_XE, scratch_XD)
            torch.addcmul(x_ZXD[group % len(x_ZXD)], c_X1, scratch_XD, out=a_XD)
            z_XD, _, _ = torch.native_layer_norm(a_XD, (width,), norm_weight, norm_bias, eps)
            first.forward(group, z_XD, hidden_XE)
            torch.ops.aten.gelu.out(hidden_XE, out=active_XE)
            second.forward(group, active_XE, scratch_XD)
            torch.addcmul(a_XD, c_X1, scratch_XD, out=y_XD)
        ctx.save_for_backward(attended_ZXE, c_ZX1, a_ZXD, hidden_ZXE, function_P, norm_weight, norm_bias, *tensors)
        ctx.eps, ctx.parts_of_x = eps, len(x_ZXD)
        return y_ZXD

    @staticmethod
    @first_order_backward
    def backward(ctx: Any, gradient_ZXD: Tensor) -> tuple[Tensor | None, ...]:
        attended_ZXE, c_ZX1, a_ZXD, hidden_ZXE, function_P, norm_weight, norm_bias, *tensors = ctx.saved_tensors
        out, first, second = maps = _build_line_maps(function_P, tensors)
        width = a_ZXD.shape[-1]
        grad_x = a_ZXD.new_zeros(ctx.parts_of_x, *a_ZXD.shape[1:])
        grad_attended, grad_c = torch.empty_like(attended_ZXE), torch.empty_like(c_ZX1)
        grad_norm_weight, grad_norm_bias = torch.zeros_like(norm_weight), torch.zeros_like(norm_bias)
        scratch_XD = torch.empty_like(a_ZXD[0])
        active_XE, grad_hidden_XE, scratch_XE = (torch.empty_like(hidden_ZXE[0]) for _ in range(3))
        scratch_XF = torch.empty_like(attended_ZXE[0])
        for group, (gradient_XD, attended_XE, c_X1, a_XD, hidden_XE, grad_attended_XE, grad_c_X1) in enumerate(
            zip(gradient_ZXD, attended_ZXE, c_ZX1, a_ZXD, hidden_ZXE, grad_attended, grad_c, strict=True)
        ):
            # y = a + c f with f = W_2 h + b_2 and h = gelu(hidden): W_2^T g, dL/dW_2 = g (c h)^T, dL/db_2 = c g.
            torch.ops.aten.gelu.out(hidden_XE, out=active_XE)
            torch.mul(active_XE, c_X1, out=scratch_XE)
            second.backward(group, gradient_XD, scratch_XE, grad_hidden_XE, row_scale_X1=c_X1)
            # dL/dc = <g, f>.
            grad_c_X1.copy_(_row_scale_gradient(grad_hidden_XE, active_XE, gradient_XD, second.bias_E))
            # dL/dh = c W_2^T g, and dL/dhidden = gelu'(hidden) dL/dh.
            grad_hidden_XE *= c_X1
            torch.ops.aten.gelu_backward.grad_input(grad_hidden_XE, hidden_XE, grad_input=grad_hidden_XE)
            # hidden = W_1 z + b_1 with z = norm(a): dL/dz = W_1^T dL/dhidden, and the same for its weight and bias.
            z_XD, mean_X1, rstd_X1 = torch.native_layer_norm(a_XD, (width,), norm_weight, norm_bias, ctx.eps)
            first.backward(group, grad_hidden_XE, z_XD, scratch_XD)
            grad_a_XD, norm_weight_term, norm_bias_term = torch.ops.aten.native_layer_norm_backward(
                scratch_XD, a_XD, (width,), mean_X1, rstd_X1, norm_weight, norm_bias, (True, True, True)
            )
            grad_norm_weight += norm_weight_term
            grad_norm_bias += norm_bias_term
            # dL/da = g + (dz/da)^T dL/dz, and dL/dx = dL/da.
            grad_a_XD += gradient_XD
            grad_x[group % len(grad_x)] += grad_a_XD
            # a = x + c o with o = W_o attended + b_o: W_o^T dL/da, dL/dW_o = dL/da (c attended)^T, dL/db_o = c dL/da.
            torch.mul(attended_XE, c_X1, out=scratch_XF)
            out.backward(group, grad_a_XD, scratch_XF, grad_attended_XE, row_scale_X1=c_X1)
            # dL/dc += <dL/da, o>, and dL/dattended = c W_o^T dL/da.
            grad_c_X1 += _row_scale_gradient(grad_attended_XE, attended_XE, grad_a_XD, out.bias_E)
            grad_attended_XE *= c_X1
        gradients = (gradient for linear in maps for gradient in linear.gradients)
        return grad_x, grad_attended, grad_c, None, grad_norm_weight, grad_norm_bias, None, *gradients


def _build_line_maps(function_P: Tensor | None, tensors: Sequence[Any]) -> list[PerFunctionLinear] | list[ScaledLinear]:
    """Builds the three maps: of all functions together if the function of each row is given, else one function at a time."""
    if function_P is None:
        return [PerFunctionLinear(*tensors[start : start + 2]) for start in range(0, 6, 2)]
    return build_scaled_maps(function_P, tensors)


def _row_scale_gradient(grad_h_XE: Tensor, h_XE: Tensor, gradient_XD: Tensor, bias_D: Tensor | None) -> Tensor:
    """Returns <g, W h + b> of each row, [X, 1], from W^T g: the gradient of the factor by which W h + b is multiplied."""
    gradient_X = torch.linalg.vecdot(grad_h_XE, h_XE)
    return (gradient_X if bias_D is None else gradient_X.addmv_(gradient_XD, bias_D)).unsqueeze(1)
