"""A router: how much of each element every function takes."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.contracts import Build, Context, Router, Sizes
from ni_framework.options import config, option


class Example(Router):
    """c_ui = softmax_u(s_u . t_i / temperature), 0 below a floor: types [B, V, T] and signatures [U, T] -> [B, U, V]."""

    api = 1

    @config
    class Config:
        temperature: float = option(default=0.5, gt=0, help="the lower, the more an element goes to one function alone")
        floor: float = option(default=0.05, ge=0, lt=1, help="compatibility below which a pair is closed")

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.temperature, self.floor = config.temperature, config.floor

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        likeness_BUV = torch.einsum("ut,bvt->buv", signature_UT, type_BVT)  # of unit vectors, so from -1 to 1
        c_BUV = torch.softmax(likeness_BUV / self.temperature, dim=1)
        return torch.where(c_BUV < self.floor, 0, c_BUV)
