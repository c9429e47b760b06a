"""A modulated linear map that is used in both directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Pairs
from ni_framework.nn.modlin import ModulatedMap, Modulation, code_scale


class TiedMap(nn.Module):
    """M_u = W diag(LN(W_c code_u)), [E, D], which maps rows in both directions.

    `Pairs.modulated_linear` computes M_u x, [R, D] -> [R, E], and `apply_transposed` computes M_u^T y, [R, E] -> [R, D].
    Source: Neural Interpreters, equation 3. Its scale of the input is a scale of the output in the transposed map.
    """

    def __init__(self, in_features: int, out_features: int, code: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.code_weight = nn.Parameter(torch.empty(in_features, code))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws from the uniform distribution over +-1/sqrt(inputs), as `torch.nn.Linear` does."""
        for weight in (self.weight, self.code_weight):
            nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def prepare(self, code_UC: Tensor) -> ModulatedMap:
        """Returns the weight, the input scale of each function, and the bias."""
        return ModulatedMap(self.weight, code_scale(code_UC, self.code_weight), self.bias)


def apply_transposed(y_RE: Tensor, modulation: Modulation, pairs: Pairs) -> Tensor:
    """Returns M_u^T y, [R, D].

    Args:
        y_RE: Rows of outputs.
        modulation: A modulation of one map, whose weight and scale are used.
        pairs: The pairs of function and element.
    """
    weight_ED, scale_UD, _ = modulation.maps[0]
    return F.linear(y_RE, weight_ED.T) * pairs.expand(scale_UD)
