"""Products with modulated maps, forward and backward, written for the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ni_framework.nn.cpu.dispatch import CpuKernel, first_order_backward
from ni_framework.nn.modlin import ModulatedMap


class PerFunctionLinear:
    """x M_u^T + b of one function u, from the matrices M_u = W diag(s_u) of all functions.

    The product of a single function is large enough for all cores. A batched product gives each core whole matrices, so that
    some cores are idle if there are few functions.
    """

    def __init__(self, weight_UED: Tensor, bias_E: Tensor | None) -> None:
        self.weight_UED, self.bias_E = weight_UED, bias_E
        # Set by `backward`: the gradients of weight and bias.
        self.gradients: tuple[Tensor | None, ...] = ()

    def forward(self, function: int, x_XD: Tensor, out_XE: Tensor) -> None:
        _linear_into(x_XD, self.weight_UED[function], self.bias_E, out_XE)

    @property
    def width(self) -> int:
        """E, the number of columns of the result."""
        return self.weight_UED.shape[1]

    def backward(
        self,
        function: int,
        gradient_XE: Tensor,
        x_XD: Tensor,
        out_XD: Tensor,
        *,
        add: bool = False,
        row_scale_X1: Tensor | None = None,
    ) -> None:
        """Computes the gradient of x in `out_XD`, and those of weight and bias in `gradients`.

        For y = c (M x + b), call it with `row_scale_X1` = c, c x as x, and g = dL/dy. `out_XD` is then M^T g, without the factor
        c of dL/dx, because the gradient of c needs it like this.

        Args:
            function: the number u of the function.
            gradient_XE: g, the gradient of the result.
            x_XD: x, the input of the forward pass.
            out_XD: receives the gradient of x.
            add: whether the gradient of x is added to `out_XD` instead of replacing it.
            row_scale_X1: c, if the result is scaled by it afterwards.
        """
        # dL/dx = M^T g.
        if add:
            out_XD.addmm_(gradient_XE, self.weight_UED[function])
        else:
            torch.mm(gradient_XE, self.weight_UED[function], out=out_XD)
        if not self.gradients:
            grad_bias = None if self.bias_E is None else torch.zeros_like(self.bias_E)
            self.gradients = torch.empty_like(self.weight_UED), grad_bias
        grad_weight, grad_bias = self.gradients
        assert grad_weight is not None
        # dL/dM = sum over rows of g x^T.
        torch.mm(gradient_XE.T, x_XD, out=grad_weight[function])
        # dL/db = sum over rows of g (c g with a row scale), over all functions.
        if grad_bias is not None:
            grad_bias += _bias_gradient(gradient_XE, row_scale_X1)


class ScaledLinear:
    """(x * s_u) W^T + b over rows of any functions, each with the scale of its function u."""

    def __init__(
        self,
        function_P: Tensor,
        scratch: dict[tuple[int, ...], Tensor],
        weight_ED: Tensor,
        scale_UD: Tensor,
        bias_E: Tensor | None,
    ) -> None:
        self.function_P, self.weight_ED, self.scale_UD, self.bias_E = function_P, weight_ED, scale_UD, bias_E
        # Shared by the maps of one operation, so that it stays in the cache.
        self._scratch = scratch
        # Set by `backward`: the gradients of weight, scale and bias.
        self.gradients: tuple[Tensor | None, ...] = ()

    def forward(self, _: int, x_PD: Tensor, out_PE: Tensor) -> None:
        (scaled_PD,) = self._scratch_tensors(x_PD, 1)
        torch.index_select(self.scale_UD, 0, self.function_P, out=scaled_PD)
        _linear_into(scaled_PD.mul_(x_PD), self.weight_ED, self.bias_E, out_PE)

    @property
    def width(self) -> int:
        """E, the number of columns of the result."""
        return len(self.weight_ED)

    def backward(
        self,
        _: int,
        gradient_PE: Tensor,
        x_PD: Tensor,
        out_PD: Tensor,
        *,
        add: bool = False,
        row_scale_X1: Tensor | None = None,
    ) -> None:
        """Computes gradients as `PerFunctionLinear.backward` does.

        The scaled rows are computed again, which is cheaper than saving and reading them.
        """
        scale_PD, scaled_PD = self._scratch_tensors(x_PD, 2)
        torch.index_select(self.scale_UD, 0, self.function_P, out=scale_PD)
        # dL/dW = sum over rows of g (x * s)^T.
        grad_weight = gradient_PE.T @ torch.mul(x_PD, scale_PD, out=scaled_PD)
        # dL/d(x * s) = W^T g, and dL/dx = s * (W^T g).
        grad_scaled_PD = torch.mm(gradient_PE, self.weight_ED, out=scaled_PD)
        if add:
            out_PD.addcmul_(grad_scaled_PD, scale_PD)
        else:
            torch.mul(grad_scaled_PD, scale_PD, out=out_PD)
        # dL/ds_u = sum over the rows of function u of x * (W^T g).
        grad_scale = torch.zeros_like(self.scale_UD).index_add_(0, self.function_P, grad_scaled_PD.mul_(x_PD))
        self.gradients = (
            grad_weight,
            grad_scale,
            None if self.bias_E is None else _bias_gradient(gradient_PE, row_scale_X1),
        )

    def _scratch_tensors(self, like: Tensor, number: int) -> list[Tensor]:
        """Returns tensors of this shape; their values are undefined."""
        shapes = ((slot, *like.shape) for slot in range(number))
        return [self._scratch.setdefault(shape, like.new_empty(0)).resize_(shape[1:]) for shape in shapes]


def grouped_product(x_UXD: Tensor, weight_UED: Tensor, bias_E: Tensor | None) -> Tensor:
    """Returns x_u M_u^T + b for each function u, [U, X, E].

    Args:
        x_UXD: the rows of each function, or [1, X, D] if all functions read the same rows.
        weight_UED: the matrices M_u.
        bias_E: the bias of all functions, or None.
    """
    return _GroupedProduct.apply(x_UXD, weight_UED, bias_E)  # pyright: ignore[reportReturnType]


class _GroupedProduct(CpuKernel):
    @staticmethod
    def forward(ctx: Any, x_UXD: Tensor, weight_UED: Tensor, bias_E: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_UXD, weight_UED, bias_E)
        linear = PerFunctionLinear(weight_UED, bias_E)
        y_UXE = x_UXD.new_empty(len(weight_UED), x_UXD.shape[1], linear.width)
        for function, y_XE in enumerate(y_UXE):
            linear.forward(function, x_UXD[function % len(x_UXD)], y_XE)
        return y_UXE

    @staticmethod
    @first_order_backward
    def backward(ctx: Any, gradient_UXE: Tensor) -> tuple[Tensor | None, ...]:
        x_UXD, weight_UED, bias_E = ctx.saved_tensors
        # Rows that all functions read get the sum over functions of M_u^T g_u.
        linear, grad_x = PerFunctionLinear(weight_UED, bias_E), x_UXD.new_empty(x_UXD.shape)
        for function, gradient_XE in enumerate(gradient_UXE.contiguous()):
            row = function % len(x_UXD)
            linear.backward(function, gradient_XE, x_UXD[row], grad_x[row], add=function >= len(x_UXD))
        return grad_x, *linear.gradients


def scaled_product(x_PD: Tensor, function_P: Tensor, maps: Sequence[ModulatedMap]) -> Tensor:
    """Returns the concatenated results W (x * s_u) + b of several maps, [P, E].

    Args:
        x_PD: the rows.
        function_P: the function u of each row, whose scale it gets.
        maps: the maps; E is the sum of their widths.
    """
    flat = [tensor for modulated_map in maps for tensor in modulated_map]
    return _ScaledProduct.apply(x_PD, function_P, *flat)  # pyright: ignore[reportReturnType]


class _ScaledProduct(CpuKernel):
    @staticmethod
    def forward(ctx: Any, x_PD: Tensor, function_P: Tensor, *flat: Tensor | None) -> Tensor:
        maps = build_scaled_maps(function_P, flat)
        widths = [linear.width for linear in maps]
        y_PE = x_PD.new_empty(len(x_PD), sum(widths))
        for linear, columns in zip(maps, y_PE.split(widths, dim=1), strict=True):
            linear.forward(0, x_PD, columns)
        ctx.save_for_backward(x_PD, function_P, *flat)
        return y_PE

    @staticmethod
    @first_order_backward
    def backward(ctx: Any, gradient_PE: Tensor) -> tuple[Tensor | None, ...]:
        x_PD, function_P, *flat = ctx.saved_tensors
        maps = build_scaled_maps(function_P, flat)
        # dL/dx is the sum over maps of s * (W^T g).
        grad_x = torch.empty_like(x_PD)
        parts = gradient_PE.split([linear.width for linear in maps], dim=1)
        for number, (linear, part) in enumerate(zip(maps, parts, strict=True)):
            linear.backward(0, part, x_PD, grad_x, add=number > 0)
        return grad_x, None, *(gradient for linear in maps for gradient in linear.gradients)


def build_scaled_maps(function_P: Tensor, flat: Sequence[Any]) -> list[ScaledLinear]:
    """Builds the maps of one operation from a flat list: weight, scale and bias of the first map, then of the second ..."""
    scratch: dict[tuple[int, ...], Tensor] = {}
    return [ScaledLinear(function_P, scratch, *flat[place : place + 3]) for place in range(0, len(flat), 3)]


def _linear_into(x_XD: Tensor, weight_ED: Tensor, bias_E: Tensor | None, out_XE: Tensor) -> None:
    if bias_E is None:
        torch.mm(x_XD, weight_ED.T, out=out_XE)
    else:
        torch.addmm(bias_E, x_XD, weight_ED.T, out=out_XE)


def _bias_gradient(gradient_XE: Tensor, row_scale_X1: Tensor | None) -> Tensor:
    return gradient_XE.sum(dim=0) if row_scale_X1 is None else gradient_XE.T.mv(row_scale_X1.squeeze(1))
