"""Image files that are decoded when a batch needs them, so that a data set may be larger than the memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ni_framework.errors import RunError
from ni_standard.data.images.labelled_images import ImageOptions, convert_images

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageFiles:
    """Reads image files by their index, as bytes [B, C, Y, X]."""

    def __init__(self, paths: Sequence[Path], options: ImageOptions) -> None:
        self.paths, self.options = paths, options

    def __call__(self, index_B: Tensor) -> Tensor:
        return torch.stack([self._read(self.paths[index]) for index in index_B.tolist()])

    def _read(self, path: Path) -> Tensor:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                if image.mode[0] in "IF":
                    raise ValueError(f"its pixel format is {image.mode}, which has more than 8 bits per channel")
                pixels = np.array(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise RunError(f"{path}: cannot be read as an image: {error}; repair or remove the file") from error
        return convert_images(torch.from_numpy(pixels).movedim(2, 0).unsqueeze(0), self.options)[0]
