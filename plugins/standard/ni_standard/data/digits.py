"""Real hand-written digits that come with scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import Batch, ComponentFactory, Data
from ni_framework.nn.random import uniform
from ni_framework.options import config, option

# Rounded mean and standard deviation of the pixels, which are in [0, 1].
_DIGIT_MEAN, _DIGIT_STD = 0.3, 0.38
_BACKGROUND = -_DIGIT_MEAN / _DIGIT_STD
# Rows and columns of a digit; the unit of `Affine.shift` is one of these pixels.
_DIGIT_SIDE = 8


@config
class Affine:
    """The limits of the random affine map of a training sample."""

    rotation: float = option(default=12.0, ge=0, le=180, help="largest rotation of a training sample, in degrees")
    scale: float = option(default=0.15, ge=0, lt=1, help="largest relative change of size")
    shear: float = option(default=0.15, ge=0, lt=1, help="largest shear, sideways shift per unit of height")
    shift: float = option(default=0.8, ge=0, le=8, help="largest shift along each axis, in pixels of the 8 x 8 image")


class Digits(Data):
    """1,797 digits of 8 x 8 pixels by 43 writers, 1,400 to train and 397 to test, stratified by class, always the same split.

    Each training sample is transformed by a random affine map. Source: Alpaydin and Kaynak, "Optical recognition of
    handwritten digits", UCI 1998: its test part, as scikit-learn ships it.
    """

    Config = Affine
    shape = (1, _DIGIT_SIDE, _DIGIT_SIDE)
    tasks: Mapping[str, int] = {"digits": 10}

    def __init__(self, config: Affine, build: ComponentFactory) -> None:
        self.config = config

    def open(self) -> dict[str, DigitsSplit]:
        return {name: DigitsSplit(image, label, self.config) for name, (image, label) in load_digit_splits().items()}


def load_digit_splits() -> dict[str, tuple[Tensor, Tensor]]:
    """Returns images [n, 1, 8, 8] in [0, 1] and labels [n] of both splits."""
    # Imported here because the import takes a second: only when the data are read.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, train_size=1400, stratify=labels, random_state=0)
    train_image, test_image, train_label, test_label = (torch.from_numpy(part) for part in parts)
    return {
        name: (image.float().div(16).view(-1, 1, _DIGIT_SIDE, _DIGIT_SIDE), label.long())
        for name, image, label in (("train", train_image, train_label), ("test", test_image, test_label))
    }


class DigitsSplit:
    """Images of about zero mean and unit standard deviation, and their labels [n]."""

    def __init__(self, image: Tensor, label: Tensor, config: Affine, task: str = "digits") -> None:
        self.image = (image - _DIGIT_MEAN) / _DIGIT_STD
        self.label = label
        self.config = config
        self.task = task

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        image = self.image[index_B]
        if key_B is not None:
            image = random_affine(image - _BACKGROUND, key_B, self.config, image.shape[-1]) + _BACKGROUND
        return Batch(image, {self.task: self.label[index_B]})


def random_affine(image: Tensor, key_B: Tensor, affine: Affine, side: int) -> Tensor:
    """Rotates, scales, shears and shifts square images at random.

    Args:
        image: Images [B, 1, Y, X]; outside of the image the value is 0.
        key_B: The keys from which the map of each image is drawn.
        affine: The limits of the map.
        side: Rows and columns of the result.

    Returns:
        Images [B, 1, side, side].
    """
    draw = 2 * uniform(key_B, 6) - 1  # [B, 6] in [-1, 1)
    angle = draw[:, 0] * math.radians(affine.rotation)
    scale_x, scale_y = 1 + affine.scale * draw[:, 1], 1 + affine.scale * draw[:, 2]
    cos, sin, shear = angle.cos(), angle.sin(), affine.shear * draw[:, 3]
    # The coordinates of `affine_grid` go from -1 to 1.
    shift = 2 * affine.shift * draw[:, 4:] / _DIGIT_SIDE
    first = torch.stack([scale_x * cos, scale_y * (shear * cos - sin), shift[:, 0]], dim=1)
    second = torch.stack([scale_x * sin, scale_y * (shear * sin + cos), shift[:, 1]], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), [len(image), 1, side, side], align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)
