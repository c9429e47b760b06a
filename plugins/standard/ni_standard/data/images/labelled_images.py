"""Labelled images, however they were stored: brought to one shape, moved in training, and scaled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import Batch, Build, Data
from ni_framework.errors import OptionError, RunError
from ni_framework.nn.random import keys, uniform
from ni_framework.options import config, option

TASK = "class"  # of a data set by itself
_CHUNK = 4096  # images that are resized at once
_GREY = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


@config
class ImageOptions:
    """What all data sets of images have."""

    image: tuple[int, int, int] = option(
        default=(3, 32, 32), ge=1, help="shape that images are brought to: channels (1 grey, 3 colour), rows, columns"
    )
    shift: int = option(default=0, ge=0, help="largest shift of a training image along each axis, in pixels")
    flip: bool = option(default=False, help="whether training images are mirrored half of the time")

    def __attrs_post_init__(self) -> None:
        if self.image[0] not in (1, 3):
            raise OptionError("image", f"images have 1 channel (grey) or 3 (colour), not {self.image[0]}")


class ImageData(Data):
    """Base of data sets of labelled images: one task, of ten classes unless a subclass says otherwise."""

    tasks: Mapping[str, int] = {TASK: 10}

    def __init__(self, config: Any, build: Build) -> None:
        self.config = config
        self.shape = config.image


class ImageSplit:
    """One part of a data set: images are read as bytes [B, C, Y, X] and scaled to [-1, 1]; what is shifted in is black."""

    def __init__(self, read: Callable[[Tensor], Tensor], label: Tensor, options: ImageOptions) -> None:
        self.read, self.label, self.options = read, label, options

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        pixels = self.read(index_B).float() / 255
        if key_B is not None:
            pixels = _moved(pixels, key_B, self.options)
        return Batch(2 * pixels - 1, {TASK: self.label[index_B]})


def split_of(
    images: np.ndarray, labels: np.ndarray, num_classes: int, options: ImageOptions, source: object
) -> ImageSplit:
    """A part that is held in memory: bytes [n, Y, X] or [n, Y, X, C] with labels [n] from 0.

    Raises `RunError`, naming the source, for arrays that are no such images and labels.
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
    label = checked_labels(labels, len(images), num_classes, source)
    stored = torch.from_numpy(np.ascontiguousarray(images))
    stored = stored.unsqueeze(1) if stored.ndim == 3 else stored.movedim(3, 1)
    fitted = torch.cat([fit(chunk, options) for chunk in stored.split(_CHUNK)])
    return ImageSplit(lambda index_B: fitted[index_B], label, options)


def few(split: ImageSplit, samples: int, draw: int, source: object) -> ImageSplit:
    """As many samples of each class, drawn by `draw`; of one draw, fewer are the first of more.

    Raises `RunError`, naming the source, where a class has not so many.
    """
    order = uniform(keys(draw, torch.arange(len(split))), 1)[:, 0].argsort(stable=True)
    chosen = []
    for number in range(int(split.label.max()) + 1):
        of_class = order[split.label[order] == number]
        if len(of_class) < samples:
            raise RunError(
                f"{source}: holds {len(of_class)} images of class {number}, but `samples` asks for {samples}"
            )
        chosen.append(of_class[:samples])
    index = torch.cat(chosen)
    return ImageSplit(lambda index_B: split.read(index[index_B]), split.label[index], split.options)


def checked_labels(labels: np.ndarray, count: int, num_classes: int, source: object) -> Tensor:
    """Labels [n] as int64; raises `RunError` where they do not fit the number of images or of classes."""
    if labels.dtype.kind not in "iu" or labels.size != count:
        raise RunError(
            f"{source}: expected a whole number for each of {count} images, not {labels.dtype} of shape {list(labels.shape)}"
        )
    label = torch.from_numpy(labels.reshape(-1).astype(np.int64))
    if count == 0:
        raise RunError(f"{source}: holds no image")
    if int(label.min()) < 0 or int(label.max()) >= num_classes:
        raise RunError(
            f"{source}: has labels from {int(label.min())} to {int(label.max())}, "
            f"but {num_classes} classes are numbered from 0 to {num_classes - 1}"
        )
    return label


def fit(stored: Tensor, options: ImageOptions) -> Tensor:
    """Bytes [n, C, Y, X] in the shape that the options ask for: grey or colour, resized with antialiasing."""
    channels, rows, columns = options.image
    if stored.shape[1] != channels:
        stored = stored.expand(-1, 3, -1, -1) if channels == 3 else _grey(stored)
    if stored.shape[2:] == (rows, columns):
        return stored
    resized = F.interpolate(stored.float(), (rows, columns), mode="bilinear", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _grey(stored: Tensor) -> Tensor:
    weight = torch.tensor(_GREY).view(1, 3, 1, 1)
    return (stored.float() * weight).sum(dim=1, keepdim=True).round().clamp(0, 255).to(torch.uint8)


def _moved(pixels: Tensor, key_B: Tensor, options: ImageOptions) -> Tensor:
    """Images shifted by whole pixels and mirrored, each by its key."""
    if options.flip:
        mirrored_B = uniform(keys(1, key_B), 1)[:, 0] < 0.5
        pixels = torch.where(mirrored_B.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    if options.shift:
        _, _, rows, columns = pixels.shape
        offset = (uniform(keys(2, key_B), 2) * (2 * options.shift + 1)).long()  # 0 to 2 * shift
        padded = F.pad(pixels, [options.shift] * 4)
        sample = torch.arange(len(pixels)).view(-1, 1, 1)
        row = (offset[:, :1] + torch.arange(rows)).unsqueeze(2)
        column = (offset[:, 1:] + torch.arange(columns)).unsqueeze(1)
        pixels = padded.movedim(1, -1)[sample, row, column].movedim(-1, 1)
    return pixels
