"""Linear maps inside a body."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ni_framework.contracts import Linear, NoOptions, Pairs
from ni_framework.nn.modlin import Modulation, scale_of


class ModLin(Linear):
    """W (x * LN(W_c code)) + b: [R, D] -> [R, E]; the weights are shared by all functions, the code tells them apart.

    Source: Neural Interpreters, equation 3.
    """

    def __init__(self, config: NoOptions, in_features: int, out_features: int, code: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.code_weight = nn.Parameter(torch.empty(in_features, code))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(inputs), the start of torch's own linear map; bias 0."""
        for weight in (self.weight, self.code_weight):
            nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def prepare(self, code_UC: Tensor) -> Modulation:
        return Modulation(self.weight, scale_of(code_UC, self.code_weight))

    def forward(self, x_RD: Tensor, prepared: Modulation, pairs: Pairs) -> Tensor:
        return pairs.modulate(x_RD, prepared, self.bias)
