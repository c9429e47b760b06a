"""A halting: how many iterations each element gets."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ni_framework.contracts import ComponentFactory, Context, Halting, Sizes
from ni_framework.options import config, option


class Example(Halting):
    """p = sigmoid(w . LayerNorm(x)) of the remaining probability: [B, V, D] -> [B, V]; all iterations have the same cost."""

    api = 2

    @config
    class Config:
        weight: float = option(default=0.01, ge=0, help="the loss for one iteration of all elements")

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.weight = config.weight
        self.halt = nn.Sequential(nn.LayerNorm(sizes.width), nn.Linear(sizes.width, 1))

    def forward(self, x_BVD: Tensor, remaining_BV: Tensor, context: Context) -> Tensor:
        return remaining_BV * torch.sigmoid(self.halt(x_BVD)).squeeze(-1).to(remaining_BV.dtype)

    def cost(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Mapping[str, Tensor]:
        iteration_I = torch.arange(1, len(halt_IBV) + 1, device=halt_IBV.device).to(halt_IBV.dtype)
        # The expected number of iterations of each element, averaged over the elements that are not masked.
        expected_BV = torch.einsum("i,ibv->bv", iteration_I, halt_IBV)
        weight_BV = torch.ones_like(expected_BV) if present_BV is None else present_BV.to(expected_BV.dtype)
        mean_B = (expected_BV * weight_BV).sum(dim=1) / weight_BV.sum(dim=1).clamp_min(1)
        return {"iterations": self.weight * mean_B.sum() / max(len(mean_B), 1)}
