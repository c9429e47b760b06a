"""Images of the user in a NumPy file."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ni_framework.contracts import ComponentFactory
from ni_framework.errors import OptionError, RunError
from ni_framework.options import config, option
from ni_standard.data.images.find_files import expand_home
from ni_standard.data.images.labelled_images import IMAGE_TASK, ImageData, ImageOptions, ImageSplit, make_image_split


class Npz(ImageData):
    """Images and labels in one .npz file: bytes [n, Y, X] or [n, Y, X, C], and whole numbers [n] from 0. Nothing is unpickled.

    The options `images` and `labels` are patterns of the arrays' names, in which `{part}` stands for train or test: by default
    x_train, y_train, x_test, y_test, as Keras writes them. MedMNIST needs `images: "{part}_images"` and
    `labels: "{part}_labels"`.
    """

    @config
    class Config(ImageOptions):
        file: str = option(example="images.npz", help="path of the .npz file")
        classes: int = option(example=3, ge=2, help="number of classes")
        images: str = option(default="x_{part}", help="pattern of the names of the arrays of images")
        labels: str = option(default="y_{part}", help="pattern of the names of the arrays of labels")

        def __attrs_post_init__(self) -> None:
            """Checks that the patterns contain `{part}`; otherwise both splits would be the same array."""
            super().__attrs_post_init__()
            for name in ("images", "labels"):
                if "{part}" not in getattr(self, name):
                    raise OptionError(name, "must contain {part}, which stands for train or test", "as in `x_{part}`")

    def __init__(self, config: Config, build: ComponentFactory) -> None:
        super().__init__(config, build)
        self.tasks = {IMAGE_TASK: config.classes}

    def open(self) -> dict[str, ImageSplit]:
        path = expand_home(self.config.file)
        splits = {}
        for part in ("train", "test"):
            names = [pattern.replace("{part}", part) for pattern in (self.config.images, self.config.labels)]
            images, labels = read_arrays(path, names)
            splits[part] = make_image_split(
                images, labels, self.config.classes, self.config, f"{path}, {' and '.join(names)}"
            )
        return splits


def read_arrays(path: Path, names: list[str]) -> list[np.ndarray]:
    """Returns arrays of a .npz file; raises `RunError` if the file or an array is missing, or an array contains objects."""
    try:
        with open(path, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise RunError(f"{path}: contains a single array; save images and labels together with numpy.savez")
            if missing := [name for name in names if name not in stored]:
                available = ", ".join(stored.files) or "nothing"
                raise RunError(
                    f"{path}: has no array {', '.join(missing)}, but {available}; "
                    "set the names with the options `images` and `labels` of the data"
                )
            return [stored[name] for name in names]
    except FileNotFoundError as error:
        raise RunError(
            f"{path.absolute()}: there is no such file; set `file` of the data in the recipe to a .npz file"
        ) from error
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise RunError(f"{path}: cannot be read as a .npz file of numbers: {error}") from error
