"""The data set `glyphs`: letters and fonts, numbers of samples, fixed samples, and held-out samples."""

from __future__ import annotations

import re

import pytest
import torch
from ni_standard.data.digits import DigitsSplit
from ni_standard.data.glyphs import (
    ALPHABETS,
    TEST_SAMPLES_PER_LETTER,
    Glyphs,
    letter_index,
    render_alphabet,
    render_samples,
    sample_ids,
)

from ni_framework.contracts import ComponentSpec
from ni_framework.errors import RecipeError
from ni_framework.nn.random import rng_keys
from ni_framework.registry import load_recipe_text

FONTS = {"latin": 21, "greek": 16, "cyrillic": 16, "armenian": 12, "georgian": 12, "hebrew": 4}


def reject_component(kind: str, choice: ComponentSpec, *sizes: object) -> object:
    raise AssertionError(kind)


def open_glyphs(**options: object) -> dict[str, DigitsSplit]:
    return Glyphs(Glyphs.Config(**options), reject_component).open()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_every_font_has_every_letter(alphabet: str) -> None:
    """Fonts that lack letters are skipped; no letter is empty, and no two letters of a font are equal."""
    drawn = render_alphabet(alphabet)
    assert drawn.shape == (FONTS[alphabet], len(ALPHABETS[alphabet]), 1, 64, 64)
    assert float(drawn.flatten(2).mean(dim=-1).min()) > 0.05
    assert float(drawn[..., 0, :].max()) < 0.02, "letters must not reach the edge"
    for font in drawn.flatten(2):
        assert float(torch.cdist(font, font).add(100 * torch.eye(len(font))).min()) > 1


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_number_of_samples_of_each_letter(alphabet: str) -> None:
    data = Glyphs(Glyphs.Config(alphabet=alphabet, samples=3, task="script"), reject_component)  # pyright: ignore
    count = len(ALPHABETS[alphabet])
    assert data.tasks == {"script": count}
    splits = data.open()
    assert torch.bincount(splits["train"].label).tolist() == [3] * count
    assert torch.bincount(splits["test"].label).tolist() == [TEST_SAMPLES_PER_LETTER] * count
    test = splits["test"].batch(torch.arange(len(splits["test"])), None)
    assert (
        test.inputs.shape
        == (TEST_SAMPLES_PER_LETTER * count, *data.shape)
        == (TEST_SAMPLES_PER_LETTER * count, 1, 8, 8)
    )
    assert test.targets.keys() == {"script"}
    assert abs(float(test.inputs.mean())) < 0.15
    assert abs(float(test.inputs.std()) - 1) < 0.1


def test_draws_differ_and_smaller_draws_are_parts_of_larger_ones() -> None:
    first, again, other = open_glyphs(samples=5), open_glyphs(samples=5), open_glyphs(samples=5, draw=1)
    assert torch.equal(first["train"].image, again["train"].image)
    assert torch.equal(first["test"].image, other["test"].image)
    assert not torch.isclose(first["train"].image, other["train"].image).flatten(1).all(dim=1).any()
    more = open_glyphs(samples=20)["train"].image.unflatten(0, (26, 20))
    assert torch.equal(more[:, :5].flatten(0, 1), first["train"].image)


def test_held_out_letters_are_in_no_training_set() -> None:
    """Neither their numbers, for any draw, nor their pixels."""
    parts = [sample_ids("latin", 1000, part) for part in (0, 1, 2, 1_000_001)]
    assert len(torch.cat(parts).unique()) == 4 * 26 * 1000
    assert all(torch.equal(letter_index(part), torch.arange(26).repeat_interleave(1000)) for part in parts)
    images = [open_glyphs(samples=20, draw=draw) for draw in range(3)]
    pixels = torch.cat([images[0]["test"].image, *(splits["train"].image for splits in images)]).flatten(1)
    assert len(pixels.unique(dim=0)) == len(pixels)


def test_image_depends_on_its_number_only() -> None:
    number_N = sample_ids("greek", 4, 7)
    image = render_samples("greek", number_N, 28)
    assert image.shape == (96, 1, 28, 28)
    torch.testing.assert_close(render_samples("greek", number_N.flip(0)[:5], 28), image.flip(0)[:5])
    small = render_samples("greek", number_N, 8)
    torch.testing.assert_close(small.mean(dim=(2, 3)), image.mean(dim=(2, 3)), atol=0.01, rtol=0)


def test_augmentation_depends_on_the_key_only() -> None:
    split = open_glyphs()["train"]
    index_B = torch.arange(6)
    plain, augmented = split.batch(index_B, None).inputs, split.batch(index_B, rng_keys(3, index_B)).inputs
    again = split.batch(index_B.flip(0), rng_keys(3, index_B).flip(0)).inputs.flip(0)
    assert torch.equal(plain, split.image[:6])
    torch.testing.assert_close(again, augmented)
    assert not torch.isclose(plain, augmented).flatten(1).all(dim=1).any()


def test_letters_can_be_distinguished() -> None:
    """For most held-out samples, the nearest mean of 50 training samples is that of the right letter."""
    splits = open_glyphs(samples=50)
    mean = splits["train"].image.view(26, 50, -1).mean(dim=1)
    nearest = torch.cdist(splits["test"].image.flatten(1), mean).argmin(dim=1)
    assert float((nearest == splits["test"].label).float().mean()) > 0.7


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("alphabet: runic", "data.alphabet: must be 'latin', 'greek', 'cyrillic', 'armenian', 'georgian' or 'hebrew'"),
        ("task: a/b", "data.task: `a/b` is not a valid name"),
        ("samples: 0", "data.samples: must be at least 1"),
        ("side: 2", "data.side: must be at least 4"),
    ],
)
def test_invalid_options(option: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe_text(f"ni: 1\nmodel: {{}}\ndata: {{use: glyphs, {option}}}\n", [])
