"""One's own images, sorted into folders."""

from __future__ import annotations

from pathlib import Path

import torch

from ni_framework.contracts import Build
from ni_framework.errors import RunError
from ni_framework.options import config, option
from ni_standard.data.images.find_files import find
from ni_standard.data.images.image_files import ENDINGS, Pictures
from ni_standard.data.images.labelled_images import TASK, ImageData, ImageOptions, ImageSplit

_KNOWN = f"known are files that end in {', '.join(ENDINGS)}"


class ImageFolder(ImageData):
    """Images in `root/train/<class>/` and `root/test/<class>/` (or `root/val/`), of any size; classes are numbered by name.

    Files are decoded as batches need them, so that the data may be larger than the memory.
    """

    @config
    class Config(ImageOptions):
        root: str = option(example="photos", help="folder with the folders train and test")
        classes: int = option(example=3, ge=2, help="number of classes, that is of folders in train")

    def __init__(self, config: Config, build: Build) -> None:
        super().__init__(config, build)
        self.tasks = {TASK: config.classes}

    def open(self) -> dict[str, ImageSplit]:
        train, test = find(self.config.root, ["train", ("test", "val")], "your images, a folder for each class,")
        classes = _folders(train)
        if len(classes) != self.config.classes:
            raise RunError(
                f"{train}: holds {len(classes)} folders, but the recipe says {self.config.classes} classes; make them equal"
            )
        if unknown := sorted(set(_folders(test)) - set(classes)):
            raise RunError(f"{test / unknown[0]}: is a class that {train} has not; add it there or remove it here")
        return {"train": self._split("train", train, classes), "test": self._split("test", test, classes)}

    def _split(self, part: str, folder: Path, classes: list[str]) -> ImageSplit:
        paths, labels = [], []
        for number, name in enumerate(classes):
            here = (folder / name).iterdir() if (folder / name).is_dir() else ()
            images = sorted(path for path in here if path.suffix.lower() in ENDINGS)
            paths += images
            labels += [number] * len(images)
            if part == "train" and not images:
                raise RunError(f"{folder / name}: holds no image of its class; {_KNOWN}")
        if not paths:
            raise RunError(f"{folder}: its folders hold no image; {_KNOWN}")
        return ImageSplit(Pictures(paths, self.config), torch.tensor(labels), self.config)


def _folders(parent: Path) -> list[str]:
    if not parent.is_dir():
        raise RunError(f"{parent}: is no folder; put the images there, in a folder for each class")
    return sorted(path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
