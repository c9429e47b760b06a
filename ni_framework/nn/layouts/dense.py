"""All pairs of function and element: rows are [U, B, V, ...], or [1, B, V, ...] while every function reads the same."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.nn.attention import key_bias, modulated_attention
from ni_framework.nn.cpu.dense_attention import dense_attention
from ni_framework.nn.cpu.dispatch import by_hand, one_by_one
from ni_framework.nn.cpu.matmul import grouped_product
from ni_framework.nn.modlin import Modulation


class DensePairs:
    """The dense layout of `contracts.Pairs`.

    Functions lead, so that a linear map is one batched product with a matrix for each function. A scale of the input goes
    into these small matrices, W (x * s_u) = (W diag(s_u)) x, instead of onto every row. `share_BUV` is what results are pooled
    with where that is not the compatibility.
    """

    def __init__(
        self, compatibility_BUV: Tensor, multiplicity_V: Tensor | None = None, share_BUV: Tensor | None = None
    ) -> None:
        self._compatibility_UBV = compatibility_BUV.transpose(0, 1)
        self._multiplicity_V = multiplicity_V
        self._key_bias_UBV: Tensor | None = None
        self.compatibility = self._compatibility_UBV.unsqueeze(-1)  # [U, B, V, 1]
        self._share = self.compatibility if share_BUV is None else share_BUV.transpose(0, 1).unsqueeze(-1)

    @property
    def key_bias(self) -> Tensor:
        """[U, B, V], the same for every line of code (`nn.attention`)."""
        bias_UBV = self._key_bias_UBV
        if bias_UBV is None:
            bias_UBV = key_bias(self._compatibility_UBV, self._multiplicity_V)
        if not torch.compiler.is_compiling():  # as in `nn.modlin`
            self._key_bias_UBV = bias_UBV
        return bias_UBV

    def share(self, x_BVD: Tensor) -> Tensor:
        return x_BVD.unsqueeze(0)

    def spread(self, value_UX: Tensor) -> Tensor:
        return value_UX[:, None, None]

    def modulate(self, x_RD: Tensor, modulation: Modulation) -> Tensor:
        return self._product(x_RD, modulation.folded_UED, modulation.bias_E)

    def multiply(self, x_RD: Tensor, weight_UED: Tensor) -> Tensor:
        return self._product(x_RD, weight_UED, None)

    def attend(self, query_RHK: Tensor, key_RHK: Tensor, value_RHE: Tensor, position_UHVV: Tensor | None) -> Tensor:
        rows = (query_RHK, key_RHK, value_RHE)
        if (
            by_hand(*rows, self.key_bias)
            and one_by_one(value_RHE)
            and all(of.shape[:3] == self.key_bias.shape for of in rows)
        ):
            return dense_attention(*rows, self.key_bias, position_UHVV)
        query, key, value = (of.transpose(2, 3) for of in rows)  # [U, B, H, V, .]
        position = None if position_UHVV is None else position_UHVV.unsqueeze(1)
        return modulated_attention(query, key, value, self.key_bias[:, :, None, None, :], position).transpose(2, 3)

    def place(self, x_RD: Tensor) -> Tensor:
        return torch.where(self.compatibility > 0, x_RD, 0).transpose(0, 1)

    def take(self, x_BUVD: Tensor) -> Tensor:
        return x_BUVD.transpose(0, 1)

    def pool(self, y_RD: Tensor) -> Tensor:
        """sum_u c_ui y_ui, [B, V, D]."""
        return (self._share * y_RD).sum(dim=0)

    def _product(self, x_RD: Tensor, weight_UED: Tensor, bias_E: Tensor | None) -> Tensor:
        if by_hand(x_RD, weight_UED) and one_by_one(x_RD):
            return grouped_product(x_RD.flatten(1, 2), weight_UED, bias_E).unflatten(1, x_RD.shape[1:3])
        if len(x_RD) == 1:  # all functions read the same: one product with their matrices side by side
            y_BVUE = F.linear(x_RD.squeeze(0), weight_UED.flatten(0, 1)).unflatten(-1, weight_UED.shape[:2])
            return (y_BVUE if bias_E is None else y_BVUE + bias_E).movedim(2, 0)
        x_UXD = x_RD.flatten(1, 2).expand(len(weight_UED), -1, -1)
        weight_UDE = weight_UED.transpose(1, 2)
        y_UXE = torch.bmm(x_UXD, weight_UDE) if bias_E is None else torch.baddbmm(bias_E, x_UXD, weight_UDE)
        return y_UXE.unflatten(1, x_RD.shape[1:3])
