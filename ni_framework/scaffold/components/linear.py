"""A linear map inside a body that depends on the code of the function."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Linear, Pairs
from ni_framework.options import config, option


class Example(Linear):
    """W x + b + out (g_u * (in x)) with g_u a linear map of the code: rows [R, D] -> [R, E]. All weights are shared."""

    api = 2

    @config
    class Config:
        rank: int = option(default=8, ge=1, help="the size of g_u, by which functions differ")

    def __init__(self, config: Config, in_features: int, out_features: int, code: int, bias: bool) -> None:
        super().__init__()
        self.shared = nn.Linear(in_features, out_features, bias=bias)
        self.into = nn.Linear(in_features, config.rank, bias=False)
        self.out = nn.Parameter(torch.empty(out_features, config.rank))
        self.gain = nn.Linear(code, config.rank)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.out, std=self.out.shape[1] ** -0.5)

    def prepare(self, code_UC: Tensor) -> Tensor:
        # [U, rank], computed once per forward pass.
        return self.gain(code_UC)

    def forward(self, x_RD: Tensor, prepared: Tensor, pairs: Pairs) -> Tensor:
        return self.shared(x_RD) + F.linear(pairs.expand(prepared) * self.into(x_RD), self.out)
