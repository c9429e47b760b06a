"""A router: how much of each element every function takes."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.contracts import ComponentFactory, Context, Router, Sizes
from ni_framework.options import config, option


class Example(Router):
    """c_ui = softmax_u(s_u . t_i / temperature), 0 below a floor: types [B, V, T], signatures [U, T] -> [B, U, V]."""

    api = 2

    @config
    class Config:
        temperature: float = option(
            default=0.5, gt=0, help="the lower it is, the more an element goes to a single function"
        )
        floor: float = option(default=0.05, ge=0, lt=1, help="pairs with a lower compatibility are closed")

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.temperature, self.floor = config.temperature, config.floor

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        # The vectors have unit length, so the similarity is between -1 and 1.
        similarity_BUV = torch.einsum("ut,bvt->buv", signature_UT, type_BVT)
        c_BUV = torch.softmax(similarity_BUV / self.temperature, dim=1)
        return torch.where(c_BUV < self.floor, 0, c_BUV)
