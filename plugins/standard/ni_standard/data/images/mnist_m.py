"""MNIST-M: MNIST blended into photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ni_framework.errors import RunError
from ni_framework.options import config, option
from ni_standard.data.images.find_files import find_files
from ni_standard.data.images.image_files import ImageFiles
from ni_standard.data.images.labelled_images import ImageData, ImageOptions, ImageSplit, validate_labels

DIGIT_LABELS = tuple("0123456789")


class MnistM(ImageData):
    """MNIST's digits blended into photographs, in colour: folders mnist_m_train and mnist_m_test, and a list of labels for each.

    A list has a line for each image, with its file name and its label. Source: Ganin et al., "Domain-adversarial training of
    neural networks", 2016.
    """

    @config
    class Config(ImageOptions):
        root: str = option(
            default="data/mnist_m", help="folder with mnist_m_train, mnist_m_train_labels.txt, and the same of test"
        )

    def open(self) -> dict[str, ImageSplit]:
        parts = ("train", "test")
        names = [f"mnist_m_{part}{ending}" for part in parts for ending in ("", "_labels.txt")]
        paths = find_files(self.config.root, names, "MNIST-M")
        return {
            part: self._split(folder, labels)
            for part, folder, labels in zip(parts, paths[::2], paths[1::2], strict=True)
        }

    def _split(self, folder: Path, labels: Path) -> ImageSplit:
        names, numbers = [], []
        for line, text in enumerate(labels.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            fields = text.split()
            if len(fields) != 2 or fields[1] not in DIGIT_LABELS or Path(fields[0]).name != fields[0]:
                raise RunError(f"{labels}:{line}: expected the name of an image and its label, not {text[:60]!r}")
            names.append(fields[0])
            numbers.append(int(fields[1]))
        label = validate_labels(np.array(numbers, dtype=np.int64), len(names), 10, labels)
        present = {path.name for path in folder.iterdir()}
        if missing := [name for name in names if name not in present]:
            raise RunError(
                f"{folder}: lacks {missing[0]} and {len(missing) - 1} more images of {labels.name}; download the files again"
            )
        return ImageSplit(ImageFiles([folder / name for name in names], self.config), label, self.config)
