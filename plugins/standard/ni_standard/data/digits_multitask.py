"""Three tasks made of one set of real digits: plain, blended into colour textures, and tinted and inverted."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.contracts import Batch, ComponentFactory, Data
from ni_framework.nn.random import rng_keys, uniform
from ni_framework.options import config, option
from ni_standard.data.digits import Affine, load_digit_splits, random_affine

# Rows and columns of an image: twice those of the digits, so that a texture can be finer than a stroke.
IMAGE_SIDE = 16
TASKS = ("plain", "textured", "tinted")
# Number of plane waves in a texture.
WAVES = 4
# Rounded mean and standard deviation of the pixels in [0, 1], over the three tasks.
PIXEL_MEAN, PIXEL_STD = 0.38, 0.28


class DigitsMultitask(Data):
    """The 1,797 digits of `digits`, each in three colour images of 16 x 16 pixels, one per task; 4,200 train, 1,191 test samples.

        plain     the digit in grey
        textured  |texture - digit| in each channel, as MNIST-M blends photographs with MNIST
        tinted    a colour times (1 - digit): dark strokes on a light, tinted ground

    A sample has a target for its own task only. Each time a training sample is read, its affine map, texture and colours are
    drawn again; those of the test split are always the same. The data set stands in for the data of the paper's multi-task
    experiment (MNIST, MNIST-M, SVHN); the blend follows Ganin et al., "Domain-adversarial training of neural networks", 2016.
    """

    @config
    class Config(Affine):
        contrast: float = option(
            default=0.7,
            gt=0,
            le=1,
            help="how far the colours of a texture are from grey: the larger, the harder to read",
        )

    shape = (3, IMAGE_SIDE, IMAGE_SIDE)
    tasks: Mapping[str, int] = dict.fromkeys(TASKS, 10)

    def __init__(self, config: Config, build: ComponentFactory) -> None:
        self.config = config

    def open(self) -> dict[str, DigitsMultitaskSplit]:
        return {
            name: DigitsMultitaskSplit(image, label, self.config)
            for name, (image, label) in load_digit_splits().items()
        }


class DigitsMultitaskSplit:
    """Sample 3 n + k is digit n in the k-th task."""

    def __init__(self, image: Tensor, label: Tensor, config: DigitsMultitask.Config) -> None:
        self.image, self.label, self.config = image, label, config

    def __len__(self) -> int:
        return len(TASKS) * len(self.label)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        digit_B, task_B = index_B // len(TASKS), index_B % len(TASKS)
        affine = Affine(rotation=0.0, scale=0.0, shear=0.0, shift=0.0) if key_B is None else self.config
        key_B = rng_keys(0, index_B) if key_B is None else key_B
        digit = random_affine(self.image[digit_B], rng_keys(1, key_B), affine, IMAGE_SIDE).clamp(0, 1)  # [B, 1, Y, X]
        colour = uniform(rng_keys(2, key_B), 3)[..., None, None]
        variants = [
            digit.expand(-1, 3, -1, -1),
            (draw_texture(rng_keys(3, key_B), IMAGE_SIDE, self.config.contrast) - digit).abs(),
            (0.4 + 0.6 * colour) * (1 - digit),
        ]
        pixels = torch.stack(variants)[task_B, torch.arange(len(index_B))]
        label_B = self.label[digit_B]
        present = {task: task_B == number for number, task in enumerate(TASKS)}
        return Batch((pixels - PIXEL_MEAN) / PIXEL_STD, dict.fromkeys(TASKS, label_B), present=present)


def draw_texture(key_B: Tensor, side: int, contrast: float) -> Tensor:
    """Draws colour textures from plane waves, each with its own direction, length and colour.

    Args:
        key_B: The keys from which each texture is drawn.
        side: Rows and columns of a texture.
        contrast: How far the colours are from grey, up to 1.

    Returns:
        Textures in [0, 1], [B, 3, side, side].
    """
    draw = uniform(key_B, WAVES, 3)
    angle, phase = 2 * math.pi * draw[..., 0], 2 * math.pi * draw[..., 1]
    # Periods over the image; a period is longer than a stroke is wide.
    turns = 0.5 + 2 * draw[..., 2]
    position = torch.linspace(0, 1, side)
    phase_BWYX = (
        turns.mul(angle.cos())[..., None, None] * position[:, None] + turns.mul(angle.sin())[..., None, None] * position
    )
    wave_BWYX = (2 * math.pi * phase_BWYX + phase[..., None, None]).sin()
    colour_BWC = 2 * uniform(rng_keys(1, key_B), WAVES, 3) - 1
    return 0.5 + 0.5 * contrast * torch.tanh(torch.einsum("bwyx,bwc->bcyx", wave_BWYX, colour_BWC))
