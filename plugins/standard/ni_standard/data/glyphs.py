"""Letters of an alphabet, drawn from the fonts that come with matplotlib: a new task with few samples."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import ComponentFactory, Data
from ni_framework.errors import OptionError
from ni_framework.nn.random import rng_keys, uniform
from ni_framework.options import config, option
from ni_standard.data.digits import Affine, DigitsSplit, random_affine

# Code points of the letters; capitals if the alphabet has any.
ALPHABETS = {
    "latin": range(0x41, 0x5B),
    "greek": [*range(0x391, 0x3A2), *range(0x3A3, 0x3AA)],
    "cyrillic": range(0x410, 0x430),
    "armenian": range(0x531, 0x557),
    "georgian": range(0x10D0, 0x10F1),
    # Without final forms.
    "hebrew": [code for code in range(0x5D0, 0x5EB) if code not in (0x5DA, 0x5DD, 0x5DF, 0x5E3, 0x5E5)],
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
# The number of held-out samples of each letter.
TEST_SAMPLES_PER_LETTER = 40
# Rows and columns of the image in which a letter is first drawn, and the larger side of the letter in it, in pixels.
_CANVAS_SIDE, _LETTER_SIDE = 64, 52
# Letters are blurred by a Gaussian of this width, in these pixels. The edge of a stroke is then placed at a random level
# between these two: a low level makes thick strokes.
_BLUR_SIGMA = 2.5
_EDGE_LEVELS = 0.17, 0.43
# The limits of the affine map by which the samples of a letter differ.
_LETTER_AFFINE = Affine(rotation=12.0, scale=0.15, shear=0.25, shift=0.4)


class Glyphs(Data):
    """Letters of one alphabet as grey images: `samples` for training and 40 for testing of each letter, always the same.

    A sample is a letter in one of the fonts, with strokes of random thickness, rotated, scaled, sheared and shifted. Pixels are
    scaled as those of `digits`, so that a model trained on these can read it. Each time a training sample is read, a further
    random affine map is applied. Latin, Greek and Cyrillic come in 16 fonts or more, Armenian and Georgian in 12, Hebrew in 4.
    """

    @config
    class Config(Affine):
        alphabet: Literal["latin", "greek", "cyrillic", "armenian", "georgian", "hebrew"] = option(
            default="latin", help="the alphabet of the letters"
        )
        task: str = option(default="letters", help="name of the task")
        side: int = option(default=8, ge=4, le=256, help="rows and columns of an image")
        samples: int = option(default=20, ge=1, le=1000, help="training samples of each letter")
        draw: int = option(default=0, ge=0, le=1_000_000, help="number of the random draw of the training samples")

        def __attrs_post_init__(self) -> None:
            if not self.task.isidentifier():
                raise OptionError(
                    "task", f"`{self.task}` is not a valid name", "use letters, digits and _, as in `letters`"
                )

    def __init__(self, config: Config, build: ComponentFactory) -> None:
        self.config = config
        self.shape = 1, config.side, config.side
        self.tasks = {config.task: len(ALPHABETS[config.alphabet])}

    def open(self) -> dict[str, DigitsSplit]:
        config = self.config
        parts = {"train": sample_ids(config.alphabet, config.samples, 1 + config.draw)}
        parts["test"] = sample_ids(config.alphabet, TEST_SAMPLES_PER_LETTER, 0)
        return {
            name: DigitsSplit(
                render_samples(config.alphabet, number_N, config.side), letter_index(number_N), config, config.task
            )
            for name, number_N in parts.items()
        }


def sample_ids(alphabet: str, samples: int, stream: int) -> Tensor:
    """Returns the numbers [n] of the samples of a split, letter by letter; each stream has its own numbers.

    Args:
        alphabet: A key of `ALPHABETS`.
        samples: The number of samples of each letter.
        stream: 0 for the test split, 1 + draw for a training split.
    """
    letter = torch.arange(len(ALPHABETS[alphabet])).unsqueeze(1)
    return ((stream << 32) + (letter << 16) + torch.arange(samples)).flatten()


def letter_index(number_N: Tensor) -> Tensor:
    """Returns the index of each sample's letter in its alphabet."""
    return (number_N >> 16) & 0xFFFF


def render_samples(alphabet: str, number_N: Tensor, side: int) -> Tensor:
    """Draws the samples with these numbers; the same numbers always give the same images.

    Args:
        alphabet: A key of `ALPHABETS`.
        number_N: The numbers of the samples, from `sample_ids`.
        side: Rows and columns of an image.

    Returns:
        Images [n, 1, side, side] in [0, 1].
    """
    glyphs = render_alphabet(alphabet)
    key_N = rng_keys(0, number_N)
    draw = uniform(rng_keys(1, key_N), 2)
    image = glyphs[(draw[:, 0] * len(glyphs)).long(), letter_index(number_N)]
    low, high = _EDGE_LEVELS
    level = low + (high - low) * draw[:, 1].view(-1, 1, 1, 1)
    stroke = (8 * (image - level) + 0.5).clamp(0, 1)
    # The number of pixels along each axis that are averaged to one pixel of the result.
    finer = -(-_CANVAS_SIDE // side)
    return F.avg_pool2d(random_affine(stroke, rng_keys(2, key_N), _LETTER_AFFINE, finer * side), finer)


@cache
def render_alphabet(alphabet: str) -> Tensor:
    """Returns all letters in all fonts that have them, upright and blurred, [fonts, letters, 1, 64, 64] in [0, 1]."""
    # Imported here because the import takes a second: only when the data are read.
    import matplotlib

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts = [_render_font(folder / f"{name}.ttf", tuple(ALPHABETS[alphabet])) for name in FONTS]
    image_NYX = torch.stack([images for images in fonts if images is not None])
    blur = torch.exp(-0.5 * (torch.arange(-8.0, 9.0) / _BLUR_SIGMA) ** 2)
    blur = blur / blur.sum()
    flat = image_NYX.view(-1, 1, _CANVAS_SIDE, _CANVAS_SIDE)
    flat = F.conv2d(F.conv2d(flat, blur.view(1, 1, -1, 1), padding=(8, 0)), blur.view(1, 1, 1, -1), padding=(0, 8))
    return flat.view(*image_NYX.shape[:2], 1, _CANVAS_SIDE, _CANVAS_SIDE)


def _render_font(path: Path, codes: tuple[int, ...]) -> Tensor | None:
    """Returns the letters of a font, centred and of maximal size, [letters, 64, 64]; None if the font lacks one of them."""
    import numpy as np
    from matplotlib.ft2font import FT2Font

    font = FT2Font(str(path))
    if not set(codes) <= font.get_charmap().keys():
        return None
    # Large, so that hinting to whole pixels does not change the shapes.
    font.set_size(4 * _LETTER_SIDE, 72)
    image = torch.zeros(len(codes), _CANVAS_SIDE, _CANVAS_SIDE)
    for number, code in enumerate(codes):
        font.set_text(chr(code))
        font.draw_glyphs_to_bitmap()
        ink = torch.from_numpy(np.array(font.get_image())).float() / 255
        rows, columns = ink.amax(dim=1).nonzero().flatten(), ink.amax(dim=0).nonzero().flatten()
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height, width = (max(1, round(_LETTER_SIDE * size / max(ink.shape))) for size in ink.shape)
        fitted = F.interpolate(ink[None, None], (height, width), mode="bilinear", antialias=True, align_corners=False)
        top, left = (_CANVAS_SIDE - height) // 2, (_CANVAS_SIDE - width) // 2
        image[number, top : top + height, left : left + width] = fitted[0, 0]
    return image
