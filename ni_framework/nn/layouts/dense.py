"""All pairs of function and element: rows are [U, B, V, ...], or [1, B, V, ...] while every function reads the same rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.nn.attention import key_bias, modulated_attention
from ni_framework.nn.cpu.dense_attention import dense_attention
from ni_framework.nn.cpu.dispatch import loop_over_functions, use_cpu_kernels
from ni_framework.nn.cpu.matmul import grouped_product
from ni_framework.nn.modlin import Modulation


class DensePairs:
    """The dense layout of `contracts.Pairs`.

    Functions are the first dimension, so that a linear map is one batched product with a matrix for each function. The scale of
    the input is multiplied into these small matrices, W (x * s_u) = (W diag(s_u)) x, instead of into every row.

    Args:
        compatibility_BUV: the compatibilities.
        multiplicity_V: how many equal elements each element stands for; None means one.
        pool_weight_BUV: the weights that results are pooled with; None means the compatibilities.
    """

    def __init__(
        self, compatibility_BUV: Tensor, multiplicity_V: Tensor | None = None, pool_weight_BUV: Tensor | None = None
    ) -> None:
        self._compatibility_UBV = compatibility_BUV.transpose(0, 1)
        self._multiplicity_V = multiplicity_V
        self._key_bias_UBV: Tensor | None = None
        self.compatibility = self._compatibility_UBV.unsqueeze(-1)  # [U, B, V, 1]
        self._pool_weight = (
            self.compatibility if pool_weight_BUV is None else pool_weight_BUV.transpose(0, 1).unsqueeze(-1)
        )

    @property
    def key_bias(self) -> Tensor:
        """The key bias [U, B, V] (`nn.attention.key_bias`), which all lines of code share."""
        bias_UBV = self._key_bias_UBV
        if bias_UBV is None:
            bias_UBV = key_bias(self._compatibility_UBV, self._multiplicity_V)
        # Not cached under a compiler, as in `nn.modlin`.
        if not torch.compiler.is_compiling():
            self._key_bias_UBV = bias_UBV
        return bias_UBV

    def dispatch(self, x_BVD: Tensor) -> Tensor:
        return x_BVD.unsqueeze(0)

    def expand(self, value_UX: Tensor) -> Tensor:
        return value_UX[:, None, None]

    def modulated_linear(self, x_RD: Tensor, modulation: Modulation) -> Tensor:
        return self._linear(x_RD, modulation.folded_UED, modulation.bias_E)

    def grouped_linear(self, x_RD: Tensor, weight_UED: Tensor) -> Tensor:
        return self._linear(x_RD, weight_UED, None)

    def attention(self, query_RHK: Tensor, key_RHK: Tensor, value_RHE: Tensor, position_UHVV: Tensor | None) -> Tensor:
        rows = (query_RHK, key_RHK, value_RHE)
        if (
            use_cpu_kernels(*rows, self.key_bias)
            and loop_over_functions(value_RHE)
            and all(tensor.shape[:3] == self.key_bias.shape for tensor in rows)
        ):
            return dense_attention(*rows, self.key_bias, position_UHVV)
        query, key, value = (tensor.transpose(2, 3) for tensor in rows)  # [U, B, H, V, .]
        position = None if position_UHVV is None else position_UHVV.unsqueeze(1)
        return modulated_attention(query, key, value, self.key_bias[:, :, None, None, :], position).transpose(2, 3)

    def to_dense(self, x_RD: Tensor) -> Tensor:
        return torch.where(self.compatibility > 0, x_RD, 0).transpose(0, 1)

    def from_dense(self, x_BUVD: Tensor) -> Tensor:
        return x_BUVD.transpose(0, 1)

    def combine(self, y_RD: Tensor) -> Tensor:
        """Returns sum_u c_ui y_ui, [B, V, D]."""
        return (self._pool_weight * y_RD).sum(dim=0)

    def _linear(self, x_RD: Tensor, weight_UED: Tensor, bias_E: Tensor | None) -> Tensor:
        if use_cpu_kernels(x_RD, weight_UED) and loop_over_functions(x_RD):
            return grouped_product(x_RD.flatten(1, 2), weight_UED, bias_E).unflatten(1, x_RD.shape[1:3])
        if len(x_RD) == 1:
            # All functions read the same rows: one product with their concatenated matrices.
            y_BVUE = F.linear(x_RD.squeeze(0), weight_UED.flatten(0, 1)).unflatten(-1, weight_UED.shape[:2])
            return (y_BVUE if bias_E is None else y_BVUE + bias_E).movedim(2, 0)
        x_UXD = x_RD.flatten(1, 2).expand(len(weight_UED), -1, -1)
        weight_UDE = weight_UED.transpose(1, 2)
        y_UXE = torch.bmm(x_UXD, weight_UDE) if bias_E is None else torch.baddbmm(bias_E, x_UXD, weight_UDE)
        return y_UXE.unflatten(1, x_RD.shape[1:3])
