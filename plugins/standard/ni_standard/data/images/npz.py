"""One's own images in a NumPy file."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ni_framework.contracts import Build
from ni_framework.errors import OptionError, RunError
from ni_framework.options import config, option
from ni_standard.data.images.find_files import home
from ni_standard.data.images.labelled_images import TASK, ImageData, ImageOptions, ImageSplit, split_of


class Npz(ImageData):
    """Images and labels in one .npz file: bytes [n, Y, X] or [n, Y, X, C], and whole numbers [n] from 0. Nothing is unpickled.

    The names of its arrays follow the options, `{part}` standing for train or test: by default x_train, y_train, x_test,
    y_test, as Keras writes them; MedMNIST, for one, wants `images: "{part}_images"` and `labels: "{part}_labels"`.
    """

    @config
    class Config(ImageOptions):
        file: str = option(example="images.npz", help="path of the .npz file")
        classes: int = option(example=3, ge=2, help="number of classes")
        images: str = option(default="x_{part}", help="name of an array of images")
        labels: str = option(default="y_{part}", help="name of an array of labels")

        def __attrs_post_init__(self) -> None:
            """Both parts would be the same array otherwise."""
            super().__attrs_post_init__()
            for name in ("images", "labels"):
                if "{part}" not in getattr(self, name):
                    raise OptionError(name, "must hold {part}, which stands for train or test", "as in `x_{part}`")

    def __init__(self, config: Config, build: Build) -> None:
        super().__init__(config, build)
        self.tasks = {TASK: config.classes}

    def open(self) -> dict[str, ImageSplit]:
        path = home(self.config.file)
        splits = {}
        for part in ("train", "test"):
            names = [pattern.replace("{part}", part) for pattern in (self.config.images, self.config.labels)]
            images, labels = read_arrays(path, names)
            splits[part] = split_of(images, labels, self.config.classes, self.config, f"{path}, {' and '.join(names)}")
        return splits


def read_arrays(path: Path, names: list[str]) -> list[np.ndarray]:
    """Arrays of a .npz file by name; raises `RunError` where the file or an array is missing, or an array holds objects."""
    try:
        with open(path, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise RunError(f"{path}: holds one array; save images and labels together with numpy.savez")
            if missing := [name for name in names if name not in stored]:
                there = ", ".join(stored.files) or "nothing"
                raise RunError(
                    f"{path}: has no array {', '.join(missing)}, but {there}; name them with the data's `images` and `labels`"
                )
            return [stored[name] for name in names]
    except FileNotFoundError as error:
        raise RunError(
            f"{path.absolute()}: there is no such file; let the data's `file` in the recipe name a .npz file"
        ) from error
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise RunError(f"{path}: cannot be read as a .npz file of numbers: {error}") from error
