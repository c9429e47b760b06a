"""CIFAR-10 in its binary version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ni_framework.errors import RunError
from ni_framework.options import config, option
from ni_standard.data.images.find_files import find_files
from ni_standard.data.images.labelled_images import ImageData, ImageOptions, ImageSplit, make_image_split

# A label, then the red, green and blue values, each row by row.
_ROW_BYTES = 1 + 3 * 32 * 32


class Cifar10(ImageData):
    """60,000 photographs of ten classes, 32 x 32 in colour: data_batch_1.bin to data_batch_5.bin and test_batch.bin.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009. Only the binary version is read,
    because the Python version must be unpickled, which could run any code.
    """

    @config
    class Config(ImageOptions):
        root: str = option(default="data/cifar-10-batches-bin", help="folder with the six .bin files")

    def open(self) -> dict[str, ImageSplit]:
        names = [f"data_batch_{number}.bin" for number in range(1, 6)]
        *train, test = find_files(self.config.root, [*names, "test_batch.bin"], "CIFAR-10, binary version")
        return {
            part: make_image_split(*read_rows(paths), 10, self.config, paths[0].parent)
            for part, paths in (("train", train), ("test", [test]))
        }


def read_rows(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [n, 32, 32, 3] and labels [n] of several files; raises `RunError` for a file of another size."""
    rows = []
    for path in paths:
        content = np.fromfile(path, np.uint8)
        if not len(content) or len(content) % _ROW_BYTES:
            raise RunError(
                f"{path}: holds {len(content):,} bytes, not a multiple of {_ROW_BYTES:,} (one image); download the file again"
            )
        rows.append(content.reshape(-1, _ROW_BYTES))
    row = np.concatenate(rows)
    return row[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), row[:, 0].astype(np.int64)
