"""IDX files: MNIST, Fashion-MNIST, Kuzushiji-MNIST and others in their form."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from ni_framework.contracts import Build
from ni_framework.errors import RunError
from ni_framework.options import config, option
from ni_standard.data.images.find_files import find
from ni_standard.data.images.labelled_images import TASK, ImageData, ImageOptions, ImageSplit, few, split_of

_PREFIX = {"train": "train", "test": "t10k"}


class Idx(ImageData):
    """Images and labels in four IDX files, as MNIST comes: train-images-idx3-ubyte and its like, packed by gzip or not.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", whose page defines the format.
    """

    @config
    class Config(ImageOptions):
        root: str = option(default="data/mnist", help="folder with the four files")
        classes: int = option(default=10, ge=2, help="number of classes")
        samples: int | None = option(default=None, ge=1, help="training samples of each class; null: all")
        draw: int = option(default=0, ge=0, help="which of the many sets of so few training samples")

    def __init__(self, config: Config, build: Build) -> None:
        super().__init__(config, build)
        self.tasks = {TASK: config.classes}

    def open(self) -> dict[str, ImageSplit]:
        names = [
            names_of(prefix, what, rank) for prefix in _PREFIX.values() for what, rank in (("images", 3), ("labels", 1))
        ]
        paths = find(self.config.root, names, "MNIST or a data set in its form, packed by gzip or not,")
        pairs = zip(_PREFIX, paths[::2], paths[1::2], strict=True)
        splits = {
            name: split_of(read_idx(images, 3), read_idx(labels, 1), self.config.classes, self.config, images)
            for name, images, labels in pairs
        }
        if self.config.samples is not None:
            splits["train"] = few(splits["train"], self.config.samples, self.config.draw, paths[1])
        return splits


def names_of(prefix: str, what: str, rank: int) -> tuple[str, ...]:
    """The names under which a file is found, in this order."""
    stems = (f"{prefix}-{what}-idx{rank}-ubyte", f"{prefix}-{what}.idx{rank}-ubyte")
    return tuple(stem + ending for stem in stems for ending in ("", ".gz"))


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Bytes with `rank` dimensions; raises `RunError` for a file that is no such IDX file."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(f"{path}: cannot be read: {error}; get the file again") from error
    header = 4 + 4 * rank
    if len(content) < header or content[:4] != bytes([0, 0, 8, rank]):
        raise RunError(f"{path}: is no IDX file of bytes with {rank} dimensions; get the file again")
    shape = struct.unpack(f">{rank}I", content[4:header])
    if math.prod(shape) != len(content) - header:
        raise RunError(
            f"{path}: says that it holds {list(shape)} bytes, but {len(content) - header:,} are there; get the file again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
