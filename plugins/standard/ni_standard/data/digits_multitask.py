"""Three tasks made of one set of real digits: plain, blended into colour textures, and tinted and inverted."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.contracts import Batch, Build, Data
from ni_framework.nn.random import keys, uniform
from ni_framework.options import config, option
from ni_standard.data.digits import Affine, digit_parts, moved

SIDE = 16  # rows and columns of an image: twice the digits' own, so that a texture can be finer than a stroke
TASKS = ("plain", "textured", "tinted")
WAVES = 4  # in a texture
MEAN, DEVIATION = 0.38, 0.28  # of pixels in [0, 1] over the three tasks, rounded


class DigitsMultitask(Data):
    """The 1,797 digits of `digits`, each in three colour images of 16 x 16 pixels, one a task; 4,200 to train, 1,191 to test.

        plain     the digit in grey
        textured  |texture - digit| in each channel, as MNIST-M blends photographs with MNIST
        tinted    a colour times (1 - digit): dark strokes on a light, tinted ground

    A sample has an answer for its own task only. Each training sample is moved, and textures and colours are drawn anew
    each time; those of the test part are always the same. Stands in for the data of the paper's multi-task experiment
    (MNIST, MNIST-M, SVHN); the blend follows Ganin et al., "Domain-adversarial training of neural networks", 2016.
    """

    @config
    class Config(Affine):
        contrast: float = option(
            default=0.7, gt=0, le=1, help="how far a texture's colours lie from grey: the larger, the harder to read"
        )

    shape = (3, SIDE, SIDE)
    tasks: Mapping[str, int] = dict.fromkeys(TASKS, 10)

    def __init__(self, config: Config, build: Build) -> None:
        self.config = config

    def open(self) -> dict[str, DigitsMultitaskSplit]:
        return {name: DigitsMultitaskSplit(image, label, self.config) for name, (image, label) in digit_parts().items()}


class DigitsMultitaskSplit:
    """Sample 3 n + k is digit n in the k-th task."""

    def __init__(self, image: Tensor, label: Tensor, config: DigitsMultitask.Config) -> None:
        self.image, self.label, self.config = image, label, config

    def __len__(self) -> int:
        return len(TASKS) * len(self.label)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        digit_B, task_B = index_B // len(TASKS), index_B % len(TASKS)
        affine = Affine(rotation=0.0, scale=0.0, shear=0.0, shift=0.0) if key_B is None else self.config
        key_B = keys(0, index_B) if key_B is None else key_B
        digit = moved(self.image[digit_B], keys(1, key_B), affine, SIDE).clamp(0, 1)  # [B, 1, Y, X]
        colour = uniform(keys(2, key_B), 3)[..., None, None]
        forms = [
            digit.expand(-1, 3, -1, -1),
            (texture(keys(3, key_B), SIDE, self.config.contrast) - digit).abs(),
            (0.4 + 0.6 * colour) * (1 - digit),
        ]
        pixels = torch.stack(forms)[task_B, torch.arange(len(index_B))]
        label_B = self.label[digit_B]
        present = {task: task_B == number for number, task in enumerate(TASKS)}
        return Batch((pixels - MEAN) / DEVIATION, dict.fromkeys(TASKS, label_B), present=present)


def texture(key_B: Tensor, side: int, contrast: float) -> Tensor:
    """Random colour textures in [0, 1], [B, 3, side, side]: a few plane waves, each with its own direction, length and colour."""
    draw = uniform(key_B, WAVES, 3)
    angle, phase = 2 * math.pi * draw[..., 0], 2 * math.pi * draw[..., 1]
    turns = 0.5 + 2 * draw[..., 2]  # waves over the image: longer than a stroke is wide
    place = torch.linspace(0, 1, side)
    along = turns.mul(angle.cos())[..., None, None] * place[:, None] + turns.mul(angle.sin())[..., None, None] * place
    wave_BWYX = (2 * math.pi * along + phase[..., None, None]).sin()
    colour_BWC = 2 * uniform(keys(1, key_B), WAVES, 3) - 1
    return 0.5 + 0.5 * contrast * torch.tanh(torch.einsum("bwyx,bwc->bcyx", wave_BWYX, colour_BWC))
