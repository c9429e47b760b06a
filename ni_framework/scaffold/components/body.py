"""A body: what a function does with the elements it takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ni_framework.contracts import Body, Build, Pairs, Sizes
from ni_framework.errors import OptionError
from ni_framework.options import config, option


class Example(Body):
    """Turns halves of the features into each other, and elements towards their mean: [B, V, D] -> [R, D]."""

    api = 1

    @config
    class Config:
        strength: float = option(default=1.0, gt=0, help="largest angle, in radians")

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__()
        if sizes.width % 2:
            raise OptionError("", f"it turns pairs of features, so it needs an even width, not {sizes.width}")
        self.strength = config.strength
        self.angle = nn.Linear(sizes.code, sizes.width // 2)

    def prepare(self, code_UC: Tensor, num_elements: int) -> Tensor:
        return self.strength * torch.tanh(self.angle(code_UC))  # once per forward, [U, D / 2]

    def forward(self, x_BVD: Tensor, prepared: Tensor, pairs: Pairs) -> Tensor:
        left_RX, right_RX = pairs.share(x_BVD).chunk(2, dim=-1)  # elements -> rows
        cos_RX, sin_RX = pairs.spread(prepared.cos()), pairs.spread(prepared.sin())  # functions -> rows
        turned_RD = torch.cat([cos_RX * left_RX - sin_RX * right_RX, sin_RX * left_RX + cos_RX * right_RX], dim=-1)
        equal_R11 = torch.zeros_like(turned_RD[..., None, :1])  # with equal keys, attention is the mean, weighted by c,
        mean_RD = pairs.attend(equal_R11, equal_R11, turned_RD.unsqueeze(-2), None).squeeze(-2)  # of its elements
        return 0.5 * (turned_RD + mean_RD)
