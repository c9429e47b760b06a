"""A linear map with private weights for each function."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ni_framework.contracts import Pairs


class PrivateMap(nn.Module):
    """W_u x + b_u: rows [R, D] -> [R, E], with a matrix and a bias for each function in stacked tensors."""

    def __init__(self, functions: int, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(functions, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(functions, out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights from the uniform distribution over +-1/sqrt(inputs); biases are 0."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_RD: Tensor, pairs: Pairs) -> Tensor:
        y_RE = pairs.grouped_linear(x_RD, self.weight)
        return y_RE if self.bias is None else y_RE + pairs.expand(self.bias)
