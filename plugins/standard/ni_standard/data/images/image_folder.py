"""Images of the user, sorted into folders."""

from __future__ import annotations

from pathlib import Path

import torch

from ni_framework.contracts import ComponentFactory
from ni_framework.errors import RunError
from ni_framework.options import config, option
from ni_standard.data.images.find_files import find_files
from ni_standard.data.images.image_files import IMAGE_SUFFIXES, ImageFiles
from ni_standard.data.images.labelled_images import IMAGE_TASK, ImageData, ImageOptions, ImageSplit

_SUFFIX_HINT = f"image files end in {', '.join(IMAGE_SUFFIXES)}"


class ImageFolder(ImageData):
    """Images of any size in `root/train/<class>/` and `root/test/<class>/` (or `root/val/<class>/`).

    Classes are numbered in the order of their names. Files are decoded when a batch needs them, so that the data may be larger
    than the memory.
    """

    @config
    class Config(ImageOptions):
        root: str = option(example="photos", help="folder with the folders train and test")
        classes: int = option(example=3, ge=2, help="number of classes, that is of folders in train")

    def __init__(self, config: Config, build: ComponentFactory) -> None:
        super().__init__(config, build)
        self.tasks = {IMAGE_TASK: config.classes}

    def open(self) -> dict[str, ImageSplit]:
        train, test = find_files(self.config.root, ["train", ("test", "val")], "your images (a folder for each class)")
        classes = _list_folders(train)
        if len(classes) != self.config.classes:
            raise RunError(
                f"{train}: contains {len(classes)} folders, but the recipe has {self.config.classes} classes; "
                "make the numbers equal"
            )
        if unknown := sorted(set(_list_folders(test)) - set(classes)):
            raise RunError(
                f"{test / unknown[0]}: is a class that {train} does not have; add it there or remove it here"
            )
        return {"train": self._split("train", train, classes), "test": self._split("test", test, classes)}

    def _split(self, part: str, folder: Path, classes: list[str]) -> ImageSplit:
        paths, labels = [], []
        for number, name in enumerate(classes):
            files = (folder / name).iterdir() if (folder / name).is_dir() else ()
            images = sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
            paths += images
            labels += [number] * len(images)
            if part == "train" and not images:
                raise RunError(f"{folder / name}: contains no image of its class; {_SUFFIX_HINT}")
        if not paths:
            raise RunError(f"{folder}: its folders contain no image; {_SUFFIX_HINT}")
        return ImageSplit(ImageFiles(paths, self.config), torch.tensor(labels), self.config)


def _list_folders(parent: Path) -> list[str]:
    if not parent.is_dir():
        raise RunError(f"{parent}: is not a folder; put the images there, in a folder for each class")
    return sorted(path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
