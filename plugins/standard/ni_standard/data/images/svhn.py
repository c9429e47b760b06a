"""Street View House Numbers, cropped to single digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ni_framework.errors import RunError
from ni_framework.options import config, option
from ni_standard.data.images.find_files import find_files
from ni_standard.data.images.labelled_images import ImageData, ImageOptions, ImageSplit, make_image_split


class Svhn(ImageData):
    """House numbers cropped to one digit, 32 x 32 in colour, in the two files train_32x32.mat and test_32x32.mat.

    Source: Netzer et al., "Reading digits in natural images with unsupervised feature learning", 2011. Label 10 is the digit 0.
    """

    @config
    class Config(ImageOptions):
        root: str = option(default="data/svhn", help="folder with train_32x32.mat and test_32x32.mat")

    def open(self) -> dict[str, ImageSplit]:
        parts = ("train", "test")
        paths = find_files(self.config.root, [f"{part}_32x32.mat" for part in parts], "SVHN, cropped digits")
        return {
            part: make_image_split(*read_mat(path), 10, self.config, path)
            for part, path in zip(parts, paths, strict=True)
        }


def read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [n, 32, 32, 3] and labels [n]; raises `RunError` for a file that does not contain them."""
    # Imported here because the import is slow: only when the data are read.
    from scipy.io import loadmat

    try:
        stored = loadmat(path, variable_names=["X", "y"])
        images, labels = stored["X"], stored["y"]
    except Exception as error:
        # scipy's reader raises errors of many kinds for damaged files.
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        raise RunError(f"{path}: cannot be read as SVHN's arrays X and y: {reason}; download the file again") from error
    if images.ndim != 4 or labels.dtype.kind not in "iu":
        raise RunError(
            f"{path}: expected X of shape [rows, columns, 3, n] and whole numbers y, not {images.dtype} of shape "
            f"{list(images.shape)} and {labels.dtype}; download the file again"
        )
    digits = labels.reshape(-1)
    return np.moveaxis(images, 3, 0), np.where(digits == 10, 0, digits)
