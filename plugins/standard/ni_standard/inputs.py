"""Inputs: patches of images, and lists of entities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Input
from ni_framework.errors import OptionError
from ni_framework.options import config, option
from ni_standard.absolute_positions import AbsolutePositions


class Patches(Input):
    """Square patches of an image, each flattened (row, column, channel) and mapped to one element: [B, C, Y, X] -> [B, N, D].

    Patches are listed row by row from the top left. Source: the author's code; the paper follows Dosovitskiy et al. 2021.
    """

    @config
    class Config:
        image: tuple[int, int, int] = option(example=[2, 6, 4], ge=1, help="shape of an image: channels, rows, columns")
        patch: int = option(example=2, ge=1, help="rows and columns of a patch, in pixels")
        positions: Literal["none", "absolute"] = option(
            default="none", help="absolute adds a learned vector for each position"
        )

        def __attrs_post_init__(self) -> None:
            for name, size in zip(("rows", "columns"), self.image[1:], strict=True):
                if size % self.patch:
                    # At most 1000, because a recipe may contain sides so large that the search would not end.
                    candidates = range(1, min(*self.image[1:], 1000) + 1)
                    fits = [number for number in candidates if all(side % number == 0 for side in self.image[1:])]
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
        self.positions = AbsolutePositions(self.num_elements, width) if config.positions == "absolute" else None

    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        # `unfold` orders the numbers of a patch by channel, row, column; the channel must come last.
        patch_BNX = F.unfold(inputs, self.patch, stride=self.patch).transpose(1, 2)
        patch_BNX = patch_BNX.unflatten(-1, (self.shape[0], -1)).transpose(-1, -2).flatten(-2)
        # Before the map, because the gradient of its weight would be 0 * NaN otherwise.
        if mask_BN is not None:
            patch_BNX = torch.where(mask_BN.unsqueeze(-1), patch_BNX, 0)
        x_BND = self.embedding(patch_BNX)
        return x_BND if self.positions is None else x_BND + self.positions.table


class Entities(Input):
    """Entities, each a vector of features that is mapped to one element: [B, N, features] -> [B, N, D].

    Source: the author's `input_type: entities`.
    """

    @config
    class Config:
        entities: int = option(example=6, ge=1, help="number of entities, N")
        features: int = option(example=4, ge=1, help="numbers that describe an entity")
        positions: Literal["none", "absolute"] = option(
            default="none", help="absolute adds a learned vector for each position in the list; none treats it as a set"
        )

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.shape = config.entities, config.features
        self.num_elements, self.grid = config.entities, None
        self.embedding = nn.Linear(config.features, width)
        self.positions = AbsolutePositions(config.entities, width) if config.positions == "absolute" else None

    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        if mask_BN is not None:
            inputs = torch.where(mask_BN.unsqueeze(-1), inputs, 0)
        x_BND = self.embedding(inputs)
        return x_BND if self.positions is None else x_BND + self.positions.table
