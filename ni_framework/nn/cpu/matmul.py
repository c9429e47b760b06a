"""Products with modulated maps, forward and back, written for the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ni_framework.nn.cpu.dispatch import HandWritten, way_back
from ni_framework.nn.modlin import ModulatedMap


class Folded:
    """x (W diag(s_u))^T + b of one function u, with the matrices of all functions at hand.

    One function after the other is a product large enough for all cores; a batched product gives each core whole matrices, so
    that some wait where the functions are few.
    """

    def __init__(self, weight_UED: Tensor, bias_E: Tensor | None) -> None:
        self.weight_UED, self.bias_E = weight_UED, bias_E
        self.gradients: tuple[Tensor | None, ...] = ()  # of weight and bias, on the way back

    def forward(self, function: int, x_XD: Tensor, out_XE: Tensor) -> None:
        _product(x_XD, self.weight_UED[function], self.bias_E, out_XE)

    @property
    def width(self) -> int:
        """E."""
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
        """Gradient of x into `out_XD` (or on top of it), those of weight and bias into this.

        Where the answer is scaled by c afterwards, give c as `row_scale_X1`, c x as x, and the gradient of what is scaled: so
        W^T g comes out as it is before the scale, which c's own gradient needs.
        """
        if add:
            out_XD.addmm_(gradient_XE, self.weight_UED[function])
        else:
            torch.mm(gradient_XE, self.weight_UED[function], out=out_XD)
        if not self.gradients:
            to_bias = None if self.bias_E is None else torch.zeros_like(self.bias_E)
            self.gradients = torch.empty_like(self.weight_UED), to_bias
        to_weight, to_bias = self.gradients
        assert to_weight is not None
        torch.mm(gradient_XE.T, x_XD, out=to_weight[function])
        if to_bias is not None:
            to_bias += _total(gradient_XE, row_scale_X1)


class Scaled:
    """(x * s) W^T + b over rows of any functions, each with the scale of its own."""

    def __init__(
        self,
        function_P: Tensor,
        scratch: dict[tuple[int, ...], Tensor],
        weight_ED: Tensor,
        scale_UD: Tensor,
        bias_E: Tensor | None,
    ) -> None:
        self.function_P, self.weight_ED, self.scale_UD, self.bias_E = function_P, weight_ED, scale_UD, bias_E
        self._scratch = scratch  # shared by the maps of one operation, so that it stays in the cache
        self.gradients: tuple[Tensor | None, ...] = ()  # of weight, scale and bias, on the way back

    def forward(self, _: int, x_PD: Tensor, out_PE: Tensor) -> None:
        (scaled_PD,) = self._room(x_PD, 1)
        torch.index_select(self.scale_UD, 0, self.function_P, out=scaled_PD)
        _product(scaled_PD.mul_(x_PD), self.weight_ED, self.bias_E, out_PE)

    @property
    def width(self) -> int:
        """E."""
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
        """As in `Folded`. The scaled rows are formed again: that is cheaper than to keep and fetch them."""
        scale_PD, scaled_PD = self._room(x_PD, 2)
        torch.index_select(self.scale_UD, 0, self.function_P, out=scale_PD)
        to_weight = gradient_PE.T @ torch.mul(x_PD, scale_PD, out=scaled_PD)
        to_scaled_PD = torch.mm(gradient_PE, self.weight_ED, out=scaled_PD)
        if add:
            out_PD.addcmul_(to_scaled_PD, scale_PD)
        else:
            torch.mul(to_scaled_PD, scale_PD, out=out_PD)
        to_scale = torch.zeros_like(self.scale_UD).index_add_(0, self.function_P, to_scaled_PD.mul_(x_PD))
        self.gradients = to_weight, to_scale, None if self.bias_E is None else _total(gradient_PE, row_scale_X1)

    def _room(self, like: Tensor, number: int) -> list[Tensor]:
        """Memory of this shape, with whatever the last map left in it."""
        shapes = ((place, *like.shape) for place in range(number))
        return [self._scratch.setdefault(shape, like.new_empty(0)).resize_(shape[1:]) for shape in shapes]


def grouped_product(x_UXD: Tensor, weight_UED: Tensor, bias_E: Tensor | None) -> Tensor:
    """x W_u^T + b for each function u, [U, X, E]; where x has a single U, all functions read the same."""
    return _GroupedProduct.apply(x_UXD, weight_UED, bias_E)  # pyright: ignore[reportReturnType]


class _GroupedProduct(HandWritten):
    @staticmethod
    def forward(ctx: Any, x_UXD: Tensor, weight_UED: Tensor, bias_E: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_UXD, weight_UED, bias_E)
        linear = Folded(weight_UED, bias_E)
        y_UXE = x_UXD.new_empty(len(weight_UED), x_UXD.shape[1], linear.width)
        for function, y_XE in enumerate(y_UXE):
            linear.forward(function, x_UXD[function % len(x_UXD)], y_XE)
        return y_UXE

    @staticmethod
    @way_back
    def backward(ctx: Any, gradient_UXE: Tensor) -> tuple[Tensor | None, ...]:
        x_UXD, weight_UED, bias_E = ctx.saved_tensors
        linear, to_x = Folded(weight_UED, bias_E), x_UXD.new_empty(x_UXD.shape)
        for function, gradient_XE in enumerate(gradient_UXE.contiguous()):
            place = function % len(x_UXD)
            linear.backward(function, gradient_XE, x_UXD[place], to_x[place], add=function >= len(x_UXD))
        return to_x, *linear.gradients


def scaled_product(x_PD: Tensor, function_P: Tensor, maps: Sequence[ModulatedMap]) -> Tensor:
    """W (x * s_u) + b of several maps side by side, [P, E]; `function_P` says whose scale a row takes."""
    flat = [tensor for of in maps for tensor in of]
    return _ScaledProduct.apply(x_PD, function_P, *flat)  # pyright: ignore[reportReturnType]


class _ScaledProduct(HandWritten):
    @staticmethod
    def forward(ctx: Any, x_PD: Tensor, function_P: Tensor, *flat: Tensor | None) -> Tensor:
        maps = scaled_maps(function_P, flat)
        widths = [linear.width for linear in maps]
        y_PE = x_PD.new_empty(len(x_PD), sum(widths))
        for linear, part in zip(maps, y_PE.split(widths, dim=1), strict=True):
            linear.forward(0, x_PD, part)
        ctx.save_for_backward(x_PD, function_P, *flat)
        return y_PE

    @staticmethod
    @way_back
    def backward(ctx: Any, gradient_PE: Tensor) -> tuple[Tensor | None, ...]:
        x_PD, function_P, *flat = ctx.saved_tensors
        maps = scaled_maps(function_P, flat)
        to_x = torch.empty_like(x_PD)
        parts = gradient_PE.split([linear.width for linear in maps], dim=1)
        for number, (linear, part) in enumerate(zip(maps, parts, strict=True)):
            linear.backward(0, part, x_PD, to_x, add=number > 0)
        return to_x, None, *(gradient for linear in maps for gradient in linear.gradients)


def scaled_maps(function_P: Tensor, flat: Sequence[Any]) -> list[Scaled]:
    """The maps of one operation, from weight, scale and bias of one after the other."""
    scratch: dict[tuple[int, ...], Tensor] = {}
    return [Scaled(function_P, scratch, *flat[place : place + 3]) for place in range(0, len(flat), 3)]


def _product(x_XD: Tensor, weight_ED: Tensor, bias_E: Tensor | None, out_XE: Tensor) -> None:
    if bias_E is None:
        torch.mm(x_XD, weight_ED.T, out=out_XE)
    else:
        torch.addmm(bias_E, x_XD, weight_ED.T, out=out_XE)


def _total(gradient_XE: Tensor, row_scale_X1: Tensor | None) -> Tensor:
    return gradient_XE.sum(dim=0) if row_scale_X1 is None else gradient_XE.T.mv(row_scale_X1.squeeze(1))
