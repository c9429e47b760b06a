"""The unit that computes the halting probability of an element from its state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HaltingUnit(nn.Module):
    """sigmoid(w . LN(x_i) + b), with LN without affine map: [B, V, D] -> [B, V].

    Source: Graves, "Adaptive Computation Time for Recurrent Neural Networks", 2016, equation 5. The LayerNorm is added,
    because the states of an interpreter are not normalised. It has no scale and shift, because w and b can represent them.
    """

    def __init__(self, width: int, initial_bias: float) -> None:
        super().__init__()
        self.initial_bias = initial_bias
        self.weight = nn.Parameter(torch.empty(1, width))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights as `torch.nn.Linear` does; the bias is `initial_bias`."""
        nn.init.uniform_(self.weight, -(self.weight.shape[1] ** -0.5), self.weight.shape[1] ** -0.5)
        nn.init.constant_(self.bias, self.initial_bias)

    def forward(self, x_BVD: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the probabilities in `dtype`: remaining probabilities need more precision than states under autocast."""
        logit_BV1 = F.linear(F.layer_norm(x_BVD, x_BVD.shape[-1:]), self.weight, self.bias)
        return torch.sigmoid(logit_BV1.squeeze(-1).to(dtype))
