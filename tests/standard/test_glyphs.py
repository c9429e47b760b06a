"""Letters from fonts: which there are, that samples are few and always the same, and that held-out ones are held out."""

from __future__ import annotations

import re

import pytest
import torch
from ni_standard.data.digits import DigitsSplit
from ni_standard.data.glyphs import ALPHABETS, TESTED, Glyphs, drawn_letters, letter_of, letters, numbers

from ni_framework.contracts import Choice
from ni_framework.errors import RecipeError
from ni_framework.nn.random import keys
from ni_framework.registry import recipe_in

FONTS = {"latin": 21, "greek": 16, "cyrillic": 16, "armenian": 12, "georgian": 12, "hebrew": 4}


def build(kind: str, choice: Choice, *sizes: object) -> object:
    raise AssertionError(kind)


def opened(**options: object) -> dict[str, DigitsSplit]:
    return Glyphs(Glyphs.Config(**options), build).open()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_every_font_has_every_letter(alphabet: str) -> None:
    """Fonts that lack letters are left out; what a font draws for a letter is ink, and not what it draws for another."""
    drawn = drawn_letters(alphabet)
    assert drawn.shape == (FONTS[alphabet], len(ALPHABETS[alphabet]), 1, 64, 64)
    assert float(drawn.flatten(2).mean(dim=-1).min()) > 0.05
    assert float(drawn[..., 0, :].max()) < 0.02, "letters stay inside"
    for font in drawn.flatten(2):
        assert float(torch.cdist(font, font).add(100 * torch.eye(len(font))).min()) > 1


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_as_many_of_each_letter(alphabet: str) -> None:
    data = Glyphs(Glyphs.Config(alphabet=alphabet, samples=3, task="script"), build)  # pyright: ignore
    count = len(ALPHABETS[alphabet])
    assert data.tasks == {"script": count}
    splits = data.open()
    assert torch.bincount(splits["train"].label).tolist() == [3] * count
    assert torch.bincount(splits["test"].label).tolist() == [TESTED] * count
    test = splits["test"].batch(torch.arange(len(splits["test"])), None)
    assert test.inputs.shape == (TESTED * count, *data.shape) == (TESTED * count, 1, 8, 8)
    assert test.targets.keys() == {"script"}
    assert abs(float(test.inputs.mean())) < 0.15
    assert abs(float(test.inputs.std()) - 1) < 0.1


def test_draws_are_other_samples_and_more_begin_with_the_few() -> None:
    first, again, other = opened(samples=5), opened(samples=5), opened(samples=5, draw=1)
    assert torch.equal(first["train"].image, again["train"].image)
    assert torch.equal(first["test"].image, other["test"].image)
    assert not torch.isclose(first["train"].image, other["train"].image).flatten(1).all(dim=1).any()
    more = opened(samples=20)["train"].image.unflatten(0, (26, 20))
    assert torch.equal(more[:, :5].flatten(0, 1), first["train"].image)


def test_held_out_letters_are_in_no_training_set() -> None:
    """By number, whatever the draw; and by pixels."""
    parts = [numbers("latin", 1000, part) for part in (0, 1, 2, 1_000_001)]
    assert len(torch.cat(parts).unique()) == 4 * 26 * 1000
    assert all(torch.equal(letter_of(part), torch.arange(26).repeat_interleave(1000)) for part in parts)
    images = [opened(samples=20, draw=draw) for draw in range(3)]
    pixels = torch.cat([images[0]["test"].image, *(of["train"].image for of in images)]).flatten(1)
    assert len(pixels.unique(dim=0)) == len(pixels)


def test_an_image_is_its_number_s_alone() -> None:
    number_N = numbers("greek", 4, 7)
    image = letters("greek", number_N, 28)
    assert image.shape == (96, 1, 28, 28)
    torch.testing.assert_close(letters("greek", number_N.flip(0)[:5], 28), image.flip(0)[:5])
    small = letters("greek", number_N, 8)
    torch.testing.assert_close(small.mean(dim=(2, 3)), image.mean(dim=(2, 3)), atol=0.01, rtol=0)


def test_letters_are_moved_by_their_key_alone() -> None:
    split = opened()["train"]
    index_B = torch.arange(6)
    plain, moved = split.batch(index_B, None).inputs, split.batch(index_B, keys(3, index_B)).inputs
    again = split.batch(index_B.flip(0), keys(3, index_B).flip(0)).inputs.flip(0)
    assert torch.equal(plain, split.image[:6])
    torch.testing.assert_close(again, moved)
    assert not torch.isclose(plain, moved).flatten(1).all(dim=1).any()


def test_letters_can_be_told_apart() -> None:
    """The nearest mean of 50 training samples is the right letter's for most held-out ones."""
    splits = opened(samples=50)
    mean = splits["train"].image.view(26, 50, -1).mean(dim=1)
    found = torch.cdist(splits["test"].image.flatten(1), mean).argmin(dim=1)
    assert float((found == splits["test"].label).float().mean()) > 0.7


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("alphabet: runic", "data.alphabet: must be 'latin', 'greek', 'cyrillic', 'armenian', 'georgian' or 'hebrew'"),
        ("task: a/b", "data.task: `a/b` is no name"),
        ("samples: 0", "data.samples: must be at least 1"),
        ("side: 2", "data.side: must be at least 4"),
    ],
)
def test_options_that_are_refused(option: str, said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        recipe_in(f"ni: 1\nmodel: {{}}\ndata: {{use: glyphs, {option}}}\n", [])
