"""Halting: how many iterations each element gets."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ni_framework.contracts import Build, Context, Halting, Sizes
from ni_framework.options import config, option


class Example(Halting):
    """p_i = sigmoid(w . LayerNorm(x_i)) of what is left: states [B, V, D] -> [B, V]; each iteration costs the same."""

    api = 1

    @config
    class Config:
        weight: float = option(default=0.01, ge=0, help="what one iteration of all elements costs, beside the loss")

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.weight = config.weight
        self.halt = nn.Sequential(nn.LayerNorm(sizes.width), nn.Linear(sizes.width, 1))

    def forward(self, x_BVD: Tensor, left_BV: Tensor, context: Context) -> Tensor:
        return left_BV * torch.sigmoid(self.halt(x_BVD)).squeeze(-1).to(left_BV.dtype)

    def price(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Mapping[str, Tensor]:
        number_I = torch.arange(1, len(halt_IBV) + 1, device=halt_IBV.device).to(halt_IBV.dtype)
        expected_BV = torch.einsum("i,ibv->bv", number_I, halt_IBV)
        counts_BV = torch.ones_like(expected_BV) if present_BV is None else present_BV.to(expected_BV.dtype)
        mean_B = (expected_BV * counts_BV).sum(dim=1) / counts_BV.sum(dim=1).clamp_min(1)
        return {"iterations": self.weight * mean_B.sum() / max(len(mean_B), 1)}
