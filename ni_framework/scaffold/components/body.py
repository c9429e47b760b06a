"""A body: what a function does with the elements that it takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ni_framework.contracts import Body, ComponentFactory, Pairs, Sizes
from ni_framework.errors import OptionError
from ni_framework.options import config, option


class Example(Body):
    """Rotates pairs of features by angles that depend on the code, and averages with the mean element: [B, V, D] -> [R, D]."""

    api = 2

    @config
    class Config:
        strength: float = option(default=1.0, gt=0, help="the largest angle, in radians")

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        if sizes.width % 2:
            raise OptionError("", f"it rotates pairs of features, so it needs an even width, not {sizes.width}")
        self.strength = config.strength
        self.angle = nn.Linear(sizes.code, sizes.width // 2)

    def prepare(self, code_UC: Tensor, num_elements: int) -> Tensor:
        # The angles depend on the code alone, so they are computed once per forward pass: [U, D / 2].
        return self.strength * torch.tanh(self.angle(code_UC))

    def forward(self, x_BVD: Tensor, prepared: Tensor, pairs: Pairs) -> Tensor:
        # From elements to rows, and from functions to rows.
        left_RX, right_RX = pairs.dispatch(x_BVD).chunk(2, dim=-1)
        cos_RX, sin_RX = pairs.expand(prepared.cos()), pairs.expand(prepared.sin())
        rotated_RD = torch.cat([cos_RX * left_RX - sin_RX * right_RX, sin_RX * left_RX + cos_RX * right_RX], dim=-1)
        # With equal queries and keys, attention is the mean of a function's elements, weighted by compatibility.
        zero_R11 = torch.zeros_like(rotated_RD[..., None, :1])
        mean_RD = pairs.attention(zero_R11, zero_R11, rotated_RD.unsqueeze(-2), None).squeeze(-2)
        return 0.5 * (rotated_RD + mean_RD)
