"""The three tasks made of one set of digits: their pixels, their answers, and what is random in them."""

from __future__ import annotations

import pytest
import torch
from ni_standard.data.digits import digit_parts
from ni_standard.data.digits_multitask import DEVIATION, MEAN, SIDE, TASKS, DigitsMultitask, DigitsMultitaskSplit

from ni_framework.contracts import Batch, Choice
from ni_framework.nn.random import keys


def build(kind: str, choice: Choice, *sizes: object) -> object:
    raise AssertionError(kind)


@pytest.fixture(scope="module")
def splits() -> dict[str, DigitsMultitaskSplit]:
    return DigitsMultitask(DigitsMultitask.Config(), build).open()


def pixels(batch: Batch) -> torch.Tensor:
    """Back to [0, 1]."""
    return batch.inputs * DEVIATION + MEAN


def test_every_digit_is_in_every_task(splits: dict[str, DigitsMultitaskSplit]) -> None:
    train, test = splits["train"], splits["test"]
    assert (len(train), len(test)) == (4200, 1191)
    batch = test.batch(torch.arange(6), None)
    assert batch.inputs.shape == (6, 3, SIDE, SIDE)
    label = digit_parts()["test"][1]
    for number, task in enumerate(TASKS):
        assert batch.present[task].tolist() == [n % 3 == number for n in range(6)]
        assert batch.targets[task].tolist() == [int(label[0])] * 3 + [int(label[1])] * 3


def test_held_out_digits_are_held_out_in_every_task() -> None:
    """No image of the test part is in the training part, whatever its task."""
    (train, _), (test, _) = digit_parts().values()
    assert len(torch.cat([train, test]).flatten(1).unique(dim=0)) > 1790


def test_forms(splits: dict[str, DigitsMultitaskSplit]) -> None:
    """Plain is grey; tinted is dark strokes on a tinted ground; textured is a texture turned over by the digit."""
    seen = pixels(splits["test"].batch(torch.arange(300), None)).view(100, 3, 3, SIDE, SIDE)
    plain, textured, tinted = seen.unbind(dim=1)
    assert bool((seen > -1e-5).all())
    assert bool((seen < 1 + 1e-5).all())
    torch.testing.assert_close(plain[:, 0], plain[:, 2])
    digit = plain[:, :1]
    tint = tinted.amax(dim=(2, 3), keepdim=True)
    assert tint.min() >= 0.4 - 1e-5
    torch.testing.assert_close(
        tinted, tint * (1 - digit) / (1 - digit.amin(dim=(2, 3), keepdim=True)), atol=1e-5, rtol=0
    )
    stroke, ground = digit > 0.95, digit < 0.05
    for image, where in ((textured, stroke), (textured, ground)):  # there the texture is whole, or turned over
        inside = image[where.expand_as(image)]
        assert 0.1 < inside.std() < 0.3
        assert abs(inside.mean() - 0.5) < 0.05


def test_what_is_random(splits: dict[str, DigitsMultitaskSplit]) -> None:
    """Training depends on keys alone and differs by them; the test part is always the same."""
    index_B = torch.arange(9)
    train, test = splits["train"], splits["test"]
    first = train.batch(index_B, keys(0, index_B)).inputs
    again = train.batch(index_B.flip(0), keys(0, index_B).flip(0)).inputs.flip(0)
    torch.testing.assert_close(first, again)
    other = train.batch(index_B, keys(1, index_B)).inputs
    assert all(not torch.allclose(one, two) for one, two in zip(first, other, strict=True))
    assert torch.equal(test.batch(index_B, None).inputs, test.batch(index_B, None).inputs)
    textures = pixels(test.batch(torch.arange(1, 60, 3), None))
    assert len({tuple(image[:, 0, 0].tolist()) for image in textures}) == 20


def test_contrast() -> None:
    """The larger, the further the ground lies from grey."""
    deviations = []
    for contrast in (0.2, 0.9):
        split = DigitsMultitask(DigitsMultitask.Config(contrast=contrast), build).open()["test"]
        seen = pixels(split.batch(torch.arange(1, 300, 3), None))
        deviations.append(float((seen[:, :, 0, 0] - 0.5).std()))  # a corner, where no digit is
    assert deviations[0] < 0.5 * deviations[1]
