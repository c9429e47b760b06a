"""How an input becomes elements."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Input
from ni_framework.errors import OptionError
from ni_framework.options import config, option
from ni_standard.absolute_positions import Positions


class Patches(Input):
    """Square patches of an image, each flattened (row, column, channel) and mapped to one element: [B, C, Y, X] -> [B, N, D].

    Row by row from the top left. Source: the author's code; the paper follows Dosovitskiy et al. 2021.
    """

    @config
    class Config:
        image: tuple[int, int, int] = option(example=[2, 6, 4], ge=1, help="shape of an image: channels, rows, columns")
        patch: int = option(example=2, ge=1, help="rows and columns of a patch, in pixels")
        positions: Literal["none", "absolute"] = option(
            default="none", help="absolute adds a learned vector for each place"
        )

        def __attrs_post_init__(self) -> None:
            for name, size in zip(("rows", "columns"), self.image[1:], strict=True):
                if size % self.patch:
                    few = range(
                        1, min(*self.image[1:], 1000) + 1
                    )  # a recipe may claim sides that take for ever to count
                    fits = [number for number in few if all(side % number == 0 for side in self.image[1:])]
                    raise OptionError(
                        "patch",
                        f"a patch of {self.patch} does not divide the image's {size} {name}",
                        f"patches that fit: {', '.join(map(str, fits))}",
                    )

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        channels, rows, columns = self.shape = config.image
        self.patch = config.patch
        self.grid = rows // config.patch, columns // config.patch
        self.num_elements = self.grid[0] * self.grid[1]
        self.embedding = nn.Linear(channels * config.patch**2, width)
        self.positions = Positions(self.num_elements, width) if config.positions == "absolute" else None

    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        # unfold lists a patch (channel, row, column); the channel goes last.
        patch_BNX = F.unfold(inputs, self.patch, stride=self.patch).transpose(1, 2)
        patch_BNX = patch_BNX.unflatten(-1, (self.shape[0], -1)).transpose(-1, -2).flatten(-2)
        if mask_BN is not None:  # before the map: the gradient of its weight would be 0 * NaN
            patch_BNX = torch.where(mask_BN.unsqueeze(-1), patch_BNX, 0)
        x_BND = self.embedding(patch_BNX)
        return x_BND if self.positions is None else x_BND + self.positions.table


class Entities(Input):
    """Entities given as vectors, each mapped to one element: [B, N, features] -> [B, N, D].

    Source: the author's `input_type: entities`.
    """

    @config
    class Config:
        entities: int = option(example=6, ge=1, help="number of entities, N")
        features: int = option(example=4, ge=1, help="numbers that describe an entity")
        positions: Literal["none", "absolute"] = option(
            default="none", help="absolute adds a learned vector for each place in the list; none treats it as a set"
        )

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.shape = config.entities, config.features
        self.num_elements, self.grid = config.entities, None
        self.embedding = nn.Linear(config.features, width)
        self.positions = Positions(config.entities, width) if config.positions == "absolute" else None

    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        if mask_BN is not None:
            inputs = torch.where(mask_BN.unsqueeze(-1), inputs, 0)
        x_BND = self.embedding(inputs)
        return x_BND if self.positions is None else x_BND + self.positions.table
