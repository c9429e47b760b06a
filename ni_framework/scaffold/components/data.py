"""A data set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.contracts import Batch, ComponentFactory, Data, Split
from ni_framework.nn.random import rng_keys, uniform
from ni_framework.options import config, option


class Example(Data):
    """Generated images [1, 8, 8] of one bar in noise, classified as horizontal or vertical."""

    api = 2

    @config
    class Config:
        samples: int = option(
            default=1000, ge=1, help="the number of training images; there are a quarter as many held-out images"
        )
        noise: float = option(default=0.5, ge=0, help="the largest brightness of the noise; that of the bar is 1")

    def __init__(self, config: Config, build: ComponentFactory) -> None:
        self.config = config
        self.shape = (1, 8, 8)
        self.tasks: Mapping[str, int] = {"bars": 2}

    def open(self) -> dict[str, Split]:
        held_out = max(self.config.samples // 4, 1)
        return {
            "train": Bars(0, self.config.samples, self.config.noise),
            "test": Bars(1, held_out, self.config.noise),
        }


class Bars:
    """One split. Each image depends only on the seed of the split and on its index, so nothing has to be stored."""

    def __init__(self, seed: int, samples: int, noise: float) -> None:
        self.seed, self.samples, self.noise = seed, samples, noise

    def __len__(self) -> int:
        return self.samples

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        """Generates images. There is no augmentation, so `key_B` is not used."""
        draw_BX = uniform(rng_keys(self.seed, index_B), 2 + 64)
        position_B, is_vertical_B = (draw_BX[:, 0] * 8).long(), draw_BX[:, 1] < 0.5
        row_BYX = (torch.arange(8)[:, None] == position_B[:, None, None]).expand(-1, 8, 8)
        bar_BYX = torch.where(is_vertical_B[:, None, None], row_BYX.transpose(1, 2), row_BYX).float()
        noise_BYX = self.noise * draw_BX[:, 2:].unflatten(1, (8, 8))
        return Batch(torch.maximum(bar_BYX, noise_BYX).unsqueeze(1), {"bars": is_vertical_B.long()})
