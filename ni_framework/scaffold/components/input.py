"""An input: turns an image into elements."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ni_framework.contracts import Input
from ni_framework.options import config, option


class Example(Input):
    """Makes each row of an image an element and adds a learned position: [B, C, Y, X] -> [B, N, D] with N = Y."""

    api = 2

    @config
    class Config:
        image: tuple[int, int, int] = option(
            example=[1, 8, 8], ge=1, help="the shape of an image: channels, rows, columns"
        )

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
        # Masked inputs may be NaN. Masking after the map would give its weight a gradient of 0 * NaN.
        if mask_BN is not None:
            row_BNX = torch.where(mask_BN.unsqueeze(-1), row_BNX, 0)
        return self.map(row_BNX) + self.place
