"""An input: how an input becomes elements."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ni_framework.contracts import Input
from ni_framework.options import config, option


class Example(Input):
    """Each row of an image is an element, told its place by a learned vector: [B, C, Y, X] -> [B, N, D], N = Y."""

    api = 1

    @config
    class Config:
        image: tuple[int, int, int] = option(example=[1, 8, 8], ge=1, help="shape of an image: channels, rows, columns")

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        channels, rows, columns = self.shape = config.image
        self.num_elements, self.grid = rows, (rows, 1)
        self.map = nn.Linear(channels * columns, width)
        self.place = nn.Parameter(torch.empty(rows, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.place, std=0.02)

    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        row_BNX = inputs.transpose(1, 2).flatten(2)
        if mask_BN is not None:  # before the map: the gradient of its weight would be 0 * NaN
            row_BNX = torch.where(mask_BN.unsqueeze(-1), row_BNX, 0)
        return self.map(row_BNX) + self.place
