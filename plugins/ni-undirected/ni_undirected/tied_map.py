"""A modulated linear map that is walked in both directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Pairs
from ni_framework.nn.modlin import ModulatedMap, Modulation, scale_of


class TiedMap(nn.Module):
    """M_u = W diag(LN(W_c code_u)), [E, D]: `prepare` for M_u x [R, D] -> [R, E], `transposed` for M_u^T y [R, E] -> [R, D].

    Source: Neural Interpreters, equation 3, whose scale of the input becomes one of the output on the way back.
    """

    def __init__(self, in_features: int, out_features: int, code: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.code_weight = nn.Parameter(torch.empty(in_features, code))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(inputs), as torch's own linear map."""
        for weight in (self.weight, self.code_weight):
            nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def prepare(self, code_UC: Tensor) -> ModulatedMap:
        """What the codes make of it."""
        return ModulatedMap(self.weight, scale_of(code_UC, self.code_weight), self.bias)


def transposed(y_RE: Tensor, modulation: Modulation, pairs: Pairs) -> Tensor:
    """M_u^T y, [R, D], of a modulation of one map: weights and scale are those of the way there."""
    weight_ED, scale_UD, _ = modulation.maps[0]
    return F.linear(y_RE, weight_ED.T) * pairs.spread(scale_UD)
