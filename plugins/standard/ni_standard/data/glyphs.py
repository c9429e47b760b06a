"""Letters of an alphabet, drawn from the fonts that come with matplotlib: a new task of which there are few samples."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import Build, Data
from ni_framework.errors import OptionError
from ni_framework.nn.random import keys, uniform
from ni_framework.options import config, option
from ni_standard.data.digits import Affine, DigitsSplit, moved

ALPHABETS = {  # code points of the letters; capitals where there are any
    "latin": range(0x41, 0x5B),
    "greek": [*range(0x391, 0x3A2), *range(0x3A3, 0x3AA)],
    "cyrillic": range(0x410, 0x430),
    "armenian": range(0x531, 0x557),
    "georgian": range(0x10D0, 0x10F1),
    "hebrew": [
        code for code in range(0x5D0, 0x5EB) if code not in (0x5DA, 0x5DD, 0x5DF, 0x5E3, 0x5E5)
    ],  # no final forms
}
FONTS = tuple(
    family + style
    for family, styles in {
        "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
        "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
        "cm": ("r10", "b10", "ss10", "tt10", "ti10"),
    }.items()
    for style in styles
)
TESTED = 40  # held-out samples of each letter
_SIDE, _BOX = 64, 52  # pixels of a letter as it is drawn at first, and of its larger side
_DEVIATION = 2.5  # of the blur by which strokes are made thin and thick, in those pixels
_LEVELS = 0.17, 0.43  # of the blurred letter, where its edge may lie: low is thick
_HAND = Affine(rotation=12.0, scale=0.15, shear=0.25, shift=0.4)  # how samples of a letter differ


class Glyphs(Data):
    """Letters of one alphabet as grey images, as many to train as `samples` says and 40 to test of each, always the same.

    A sample is a letter in one of the fonts, of random thickness, turned, stretched, sheared and shifted; scaled as
    `digits` are, so that a model of those can read it. Each training sample is moved a little further each time.
    Latin, Greek and Cyrillic come in 16 fonts or more, Armenian and Georgian in 12, Hebrew in 4.
    """

    @config
    class Config(Affine):
        alphabet: Literal["latin", "greek", "cyrillic", "armenian", "georgian", "hebrew"] = option(
            default="latin", help="whose letters"
        )
        task: str = option(default="letters", help="name of the task")
        side: int = option(default=8, ge=4, le=256, help="rows and columns of an image")
        samples: int = option(default=20, ge=1, le=1000, help="training samples of each letter")
        draw: int = option(default=0, ge=0, le=1_000_000, help="which of the many sets of so few training samples")

        def __attrs_post_init__(self) -> None:
            if not self.task.isidentifier():
                raise OptionError("task", f"`{self.task}` is no name", "use letters, digits and _, as in `letters`")

    def __init__(self, config: Config, build: Build) -> None:
        self.config = config
        self.shape = 1, config.side, config.side
        self.tasks = {config.task: len(ALPHABETS[config.alphabet])}

    def open(self) -> dict[str, DigitsSplit]:
        config = self.config
        parts = {"train": numbers(config.alphabet, config.samples, 1 + config.draw)}
        parts["test"] = numbers(config.alphabet, TESTED, 0)
        return {
            name: DigitsSplit(letters(config.alphabet, number_N, config.side), letter_of(number_N), config, config.task)
            for name, number_N in parts.items()
        }


def numbers(alphabet: str, samples: int, part: int) -> Tensor:
    """The numbers [n] of a part's samples among all that there can be, letter by letter; no two parts share one."""
    letter = torch.arange(len(ALPHABETS[alphabet])).unsqueeze(1)
    return ((part << 32) + (letter << 16) + torch.arange(samples)).flatten()


def letter_of(number_N: Tensor) -> Tensor:
    """Which letter of its alphabet each sample is."""
    return (number_N >> 16) & 0xFFFF


def letters(alphabet: str, number_N: Tensor, side: int) -> Tensor:
    """Images [n, 1, side, side] in [0, 1] of the samples with these numbers; whoever calls again gets the same."""
    drawn = drawn_letters(alphabet)
    key_N = keys(0, number_N)
    draw = uniform(keys(1, key_N), 2)
    image = drawn[(draw[:, 0] * len(drawn)).long(), letter_of(number_N)]
    low, high = _LEVELS
    level = low + (high - low) * draw[:, 1].view(-1, 1, 1, 1)
    stroke = (8 * (image - level) + 0.5).clamp(0, 1)
    finer = -(-_SIDE // side)  # pixels that are averaged along each axis
    return F.avg_pool2d(moved(stroke, keys(2, key_N), _HAND, finer * side), finer)


@cache
def drawn_letters(alphabet: str) -> Tensor:
    """All letters in all fonts that have them, upright and blurred, [fonts, letters, 1, 64, 64] in [0, 1]."""
    import matplotlib  # a second's import: only when the data are read

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts = [_drawn(folder / f"{name}.ttf", tuple(ALPHABETS[alphabet])) for name in FONTS]
    image_NYX = torch.stack([images for images in fonts if images is not None])
    blur = torch.exp(-0.5 * (torch.arange(-8.0, 9.0) / _DEVIATION) ** 2)
    blur = blur / blur.sum()
    flat = image_NYX.view(-1, 1, _SIDE, _SIDE)
    flat = F.conv2d(F.conv2d(flat, blur.view(1, 1, -1, 1), padding=(8, 0)), blur.view(1, 1, 1, -1), padding=(0, 8))
    return flat.view(*image_NYX.shape[:2], 1, _SIDE, _SIDE)


def _drawn(path: Path, codes: tuple[int, ...]) -> Tensor | None:
    """The letters in one font, each as large as fits and in the middle, [letters, 64, 64]; None if it lacks one of them."""
    import numpy as np
    from matplotlib.ft2font import FT2Font

    font = FT2Font(str(path))
    if not set(codes) <= font.get_charmap().keys():
        return None
    font.set_size(4 * _BOX, 72)  # so large that fitting to pixels changes no shape
    image = torch.zeros(len(codes), _SIDE, _SIDE)
    for number, code in enumerate(codes):
        font.set_text(chr(code))
        font.draw_glyphs_to_bitmap()
        ink = torch.from_numpy(np.array(font.get_image())).float() / 255
        rows, columns = ink.amax(dim=1).nonzero().flatten(), ink.amax(dim=0).nonzero().flatten()
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height, width = (max(1, round(_BOX * size / max(ink.shape))) for size in ink.shape)
        fitted = F.interpolate(ink[None, None], (height, width), mode="bilinear", antialias=True, align_corners=False)
        top, left = (_SIDE - height) // 2, (_SIDE - width) // 2
        image[number, top : top + height, left : left + width] = fitted[0, 0]
    return image
