"""A data set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.contracts import Batch, Build, Data, Split
from ni_framework.nn.random import keys, uniform
from ni_framework.options import config, option


class Example(Data):
    """Pictures [1, 8, 8] of one bar in noise, to be told whether it lies or stands; made, not read from files."""

    api = 1

    @config
    class Config:
        samples: int = option(default=1000, ge=1, help="number of pictures to train on; a quarter as many are held out")
        noise: float = option(default=0.5, ge=0, help="largest brightness of the noise; the bar has 1")

    def __init__(self, config: Config, build: Build) -> None:
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
    """One part of the pictures: each is a function of the part's seed and its number, so nothing has to be kept."""

    def __init__(self, seed: int, samples: int, noise: float) -> None:
        self.seed, self.samples, self.noise = seed, samples, noise

    def __len__(self) -> int:
        return self.samples

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        """Nothing is augmented, so `key_B` is not read."""
        draw_BX = uniform(keys(self.seed, index_B), 2 + 64)
        place_B, stands_B = (draw_BX[:, 0] * 8).long(), draw_BX[:, 1] < 0.5
        row_BYX = (torch.arange(8)[:, None] == place_B[:, None, None]).expand(-1, 8, 8)
        bar_BYX = torch.where(stands_B[:, None, None], row_BYX.transpose(1, 2), row_BYX).float()
        noise_BYX = self.noise * draw_BX[:, 2:].unflatten(1, (8, 8))
        return Batch(torch.maximum(bar_BYX, noise_BYX).unsqueeze(1), {"bars": stands_B.long()})
