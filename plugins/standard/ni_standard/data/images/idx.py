"""IDX files: MNIST, Fashion-MNIST, Kuzushiji-MNIST and other data sets in this format."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from ni_framework.contracts import ComponentFactory
from ni_framework.errors import RunError
from ni_framework.options import config, option
from ni_standard.data.images.find_files import find_files
from ni_standard.data.images.labelled_images import (
    IMAGE_TASK,
    ImageData,
    ImageOptions,
    ImageSplit,
    make_image_split,
    subsample_per_class,
)

_SPLIT_PREFIXES = {"train": "train", "test": "t10k"}


class Idx(ImageData):
    """Images and labels in four IDX files, as MNIST is published: train-images-idx3-ubyte and so on, with or without gzip.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", whose page defines the format.
    """

    @config
    class Config(ImageOptions):
        root: str = option(default="data/mnist", help="folder with the four files")
        classes: int = option(default=10, ge=2, help="number of classes")
        samples: int | None = option(default=None, ge=1, help="training samples of each class; null takes all")
        draw: int = option(default=0, ge=0, help="number of the random draw of the training samples")

    def __init__(self, config: Config, build: ComponentFactory) -> None:
        super().__init__(config, build)
        self.tasks = {IMAGE_TASK: config.classes}

    def open(self) -> dict[str, ImageSplit]:
        names = [
            candidate_names(prefix, what, ndim)
            for prefix in _SPLIT_PREFIXES.values()
            for what, ndim in (("images", 3), ("labels", 1))
        ]
        paths = find_files(self.config.root, names, "MNIST or a data set in its format (with or without gzip)")
        pairs = zip(_SPLIT_PREFIXES, paths[::2], paths[1::2], strict=True)
        splits = {
            name: make_image_split(read_idx(images, 3), read_idx(labels, 1), self.config.classes, self.config, images)
            for name, images, labels in pairs
        }
        if self.config.samples is not None:
            splits["train"] = subsample_per_class(splits["train"], self.config.samples, self.config.draw, paths[1])
        return splits


def candidate_names(prefix: str, what: str, ndim: int) -> tuple[str, ...]:
    """Returns the possible names of a file, in the order in which they are tried.

    Args:
        prefix: "train" or "t10k".
        what: "images" or "labels".
        ndim: The number of dimensions, which is part of the name.
    """
    stems = (f"{prefix}-{what}-idx{ndim}-ubyte", f"{prefix}-{what}.idx{ndim}-ubyte")
    return tuple(stem + ending for stem in stems for ending in ("", ".gz"))


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Returns an array of bytes with `ndim` dimensions; raises `RunError` for any other file."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(f"{path}: cannot be read: {error}; download the file again") from error
    header = 4 + 4 * ndim
    if len(content) < header or content[:4] != bytes([0, 0, 8, ndim]):
        raise RunError(f"{path}: is not an IDX file of bytes with {ndim} dimensions; download the file again")
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if math.prod(shape) != len(content) - header:
        raise RunError(
            f"{path}: its header announces {list(shape)} bytes, but {len(content) - header:,} follow; download the file again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
