"""Labelled images of any source: converted to one shape, shifted and mirrored in training, and scaled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import Batch, ComponentFactory, Data
from ni_framework.errors import OptionError, RunError
from ni_framework.nn.random import rng_keys, uniform
from ni_framework.options import config, option

# The name of the task, unless `multitask` gives it another name.
IMAGE_TASK = "class"
# The number of images that are resized at once.
_RESIZE_CHUNK = 4096
# The weights of red, green and blue in grey; ITU-R BT.601.
_GREY_WEIGHTS = (0.299, 0.587, 0.114)


@config
class ImageOptions:
    """The options that all data sets of images have."""

    image: tuple[int, int, int] = option(
        default=(3, 32, 32),
        ge=1,
        help="shape to which images are converted: channels (1 grey, 3 colour), rows, columns",
    )
    shift: int = option(default=0, ge=0, help="largest shift of a training image along each axis, in pixels")
    flip: bool = option(default=False, help="whether training images are mirrored with probability 1/2")

    def __attrs_post_init__(self) -> None:
        if self.image[0] not in (1, 3):
            raise OptionError("image", f"images have 1 channel (grey) or 3 (colour), not {self.image[0]}")


class ImageData(Data):
    """Base of data sets of labelled images: one task, of ten classes unless a subclass sets another number."""

    tasks: Mapping[str, int] = {IMAGE_TASK: 10}

    def __init__(self, config: Any, build: ComponentFactory) -> None:
        self.config = config
        self.shape = config.image


class ImageSplit:
    """One split of a data set: images are read as bytes [B, C, Y, X] and scaled to [-1, 1]; shifts add black pixels."""

    def __init__(self, read: Callable[[Tensor], Tensor], label: Tensor, options: ImageOptions) -> None:
        self.read, self.label, self.options = read, label, options

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        pixels = self.read(index_B).float() / 255
        if key_B is not None:
            pixels = _shift_and_flip(pixels, key_B, self.options)
        return Batch(2 * pixels - 1, {IMAGE_TASK: self.label[index_B]})


def make_image_split(
    images: np.ndarray, labels: np.ndarray, num_classes: int, options: ImageOptions, source: object
) -> ImageSplit:
    """Returns a split that is kept in memory.

    Args:
        images: Bytes [n, Y, X] or [n, Y, X, C].
        labels: Class numbers [n], from 0.
        num_classes: The number of classes.
        options: The shape and the augmentation of images.
        source: Where the arrays come from, for error messages.

    Raises:
        RunError: The arrays have another type or shape.
    """
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or 0 in images.shape[1:3]
        or (images.ndim == 4 and images.shape[3] not in (1, 3))
    ):
        raise RunError(
            f"{source}: expected images as bytes of shape [n, rows, columns] or [n, rows, columns, 1 or 3], "
            f"not {images.dtype} of shape {list(images.shape)}"
        )
    label = validate_labels(labels, len(images), num_classes, source)
    stored = torch.from_numpy(np.ascontiguousarray(images))
    stored = stored.unsqueeze(1) if stored.ndim == 3 else stored.movedim(3, 1)
    fitted = torch.cat([convert_images(chunk, options) for chunk in stored.split(_RESIZE_CHUNK)])
    return ImageSplit(lambda index_B: fitted[index_B], label, options)


def subsample_per_class(split: ImageSplit, samples: int, draw: int, source: object) -> ImageSplit:
    """Draws the same number of samples of each class.

    Args:
        split: The split to draw from.
        samples: The number of samples of each class. In the same draw, a smaller number gives the first of the larger one.
        draw: The number of the random draw.
        source: Where the split comes from, for error messages.

    Raises:
        RunError: A class has fewer samples.
    """
    order = uniform(rng_keys(draw, torch.arange(len(split))), 1)[:, 0].argsort(stable=True)
    chosen = []
    for number in range(int(split.label.max()) + 1):
        class_index = order[split.label[order] == number]
        if len(class_index) < samples:
            raise RunError(
                f"{source}: contains {len(class_index)} images of class {number}, but `samples` is {samples}"
            )
        chosen.append(class_index[:samples])
    index = torch.cat(chosen)
    return ImageSplit(lambda index_B: split.read(index[index_B]), split.label[index], split.options)


def validate_labels(labels: np.ndarray, count: int, num_classes: int, source: object) -> Tensor:
    """Checks labels and converts them to int64.

    Args:
        labels: Class numbers of any integer type and of any shape with `count` numbers.
        count: The number of images.
        num_classes: The number of classes.
        source: Where the labels come from, for error messages.

    Returns:
        Labels [n].

    Raises:
        RunError: The labels do not match the number of images or of classes.
    """
    if labels.dtype.kind not in "iu" or labels.size != count:
        raise RunError(
            f"{source}: expected a whole number for each of {count} images, not {labels.dtype} of shape {list(labels.shape)}"
        )
    label = torch.from_numpy(labels.reshape(-1).astype(np.int64))
    if count == 0:
        raise RunError(f"{source}: contains no image")
    if int(label.min()) < 0 or int(label.max()) >= num_classes:
        raise RunError(
            f"{source}: has labels from {int(label.min())} to {int(label.max())}, "
            f"but {num_classes} classes are numbered from 0 to {num_classes - 1}"
        )
    return label


def convert_images(stored: Tensor, options: ImageOptions) -> Tensor:
    """Converts bytes [n, C, Y, X] to the shape in the options: grey or colour, resized with antialiasing."""
    channels, rows, columns = options.image
    if stored.shape[1] != channels:
        stored = stored.expand(-1, 3, -1, -1) if channels == 3 else _to_grey(stored)
    if stored.shape[2:] == (rows, columns):
        return stored
    resized = F.interpolate(stored.float(), (rows, columns), mode="bilinear", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _to_grey(stored: Tensor) -> Tensor:
    weight = torch.tensor(_GREY_WEIGHTS).view(1, 3, 1, 1)
    return (stored.float() * weight).sum(dim=1, keepdim=True).round().clamp(0, 255).to(torch.uint8)


def _shift_and_flip(pixels: Tensor, key_B: Tensor, options: ImageOptions) -> Tensor:
    """Shifts images by whole pixels and mirrors them, each at random by its key."""
    if options.flip:
        mirrored_B = uniform(rng_keys(1, key_B), 1)[:, 0] < 0.5
        pixels = torch.where(mirrored_B.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    if options.shift:
        _, _, rows, columns = pixels.shape
        # From 0 to 2 * shift, in the padded image.
        offset = (uniform(rng_keys(2, key_B), 2) * (2 * options.shift + 1)).long()
        padded = F.pad(pixels, [options.shift] * 4)
        sample = torch.arange(len(pixels)).view(-1, 1, 1)
        row = (offset[:, :1] + torch.arange(rows)).unsqueeze(2)
        column = (offset[:, 1:] + torch.arange(columns)).unsqueeze(1)
        pixels = padded.movedim(1, -1)[sample, row, column].movedim(-1, 1)
    return pixels
