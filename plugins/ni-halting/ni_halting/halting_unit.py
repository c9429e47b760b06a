"""The unit that reads an element's state and says whether it has been computed enough."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HaltingUnit(nn.Module):
    """sigmoid(w . LN(x_i) + b), LN without affine: [B, V, D] -> [B, V]; b starts where it is told to.

    Source: Graves, "Adaptive Computation Time for Recurrent Neural Networks", 2016, equation 5. The LayerNorm is ours: states
    of an interpreter are not normalised. It has no scale and shift, which w and b would only repeat.
    """

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.empty(1, width))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights as in torch's own linear map."""
        nn.init.uniform_(self.weight, -(self.weight.shape[1] ** -0.5), self.weight.shape[1] ** -0.5)
        nn.init.constant_(self.bias, self.start)

    def forward(self, x_BVD: Tensor, dtype: torch.dtype) -> Tensor:
        """The probability in `dtype`: what is left of an element is summed more precisely than an autocast's states."""
        logit_BV1 = F.linear(F.layer_norm(x_BVD, x_BVD.shape[-1:]), self.weight, self.bias)
        return torch.sigmoid(logit_BV1.squeeze(-1).to(dtype))
