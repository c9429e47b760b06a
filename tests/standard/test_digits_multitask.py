"""The data set `digits_multitask`: pixels and targets of the three tasks, and randomness."""

from __future__ import annotations

import pytest
import torch
from ni_standard.data.digits import load_digit_splits
from ni_standard.data.digits_multitask import (
    IMAGE_SIDE,
    PIXEL_MEAN,
    PIXEL_STD,
    TASKS,
    DigitsMultitask,
    DigitsMultitaskSplit,
)

from ni_framework.contracts import Batch, ComponentSpec
from ni_framework.nn.random import rng_keys


def reject_component(kind: str, choice: ComponentSpec, *sizes: object) -> object:
    raise AssertionError(kind)


@pytest.fixture(scope="module")
def splits() -> dict[str, DigitsMultitaskSplit]:
    return DigitsMultitask(DigitsMultitask.Config(), reject_component).open()


def to_pixels(batch: Batch) -> torch.Tensor:
    """Returns the pixels in [0, 1]."""
    return batch.inputs * PIXEL_STD + PIXEL_MEAN


def test_every_digit_is_in_every_task(splits: dict[str, DigitsMultitaskSplit]) -> None:
    train, test = splits["train"], splits["test"]
    assert len(train) == 4200
    assert len(test) == 1191
    batch = test.batch(torch.arange(6), None)
    assert batch.inputs.shape == (6, 3, IMAGE_SIDE, IMAGE_SIDE)
    label = load_digit_splits()["test"][1]
    for number, task in enumerate(TASKS):
        assert batch.present[task].tolist() == [n % 3 == number for n in range(6)]
        assert batch.targets[task].tolist() == [int(label[0])] * 3 + [int(label[1])] * 3


def test_held_out_digits_are_held_out_in_every_task() -> None:
    """No image of the test split is in the training split in any task."""
    (train, _), (test, _) = load_digit_splits().values()
    assert len(torch.cat([train, test]).flatten(1).unique(dim=0)) > 1790


def test_pixels_of_each_task(splits: dict[str, DigitsMultitaskSplit]) -> None:
    """Plain is grey; tinted has dark strokes on a tinted background; textured is a texture that the digit inverts."""
    pixels = to_pixels(splits["test"].batch(torch.arange(300), None)).view(100, 3, 3, IMAGE_SIDE, IMAGE_SIDE)
    plain, textured, tinted = pixels.unbind(dim=1)
    assert bool((pixels > -1e-5).all())
    assert bool((pixels < 1 + 1e-5).all())
    torch.testing.assert_close(plain[:, 0], plain[:, 2])
    digit = plain[:, :1]
    tint = tinted.amax(dim=(2, 3), keepdim=True)
    assert tint.min() >= 0.4 - 1e-5
    torch.testing.assert_close(
        tinted, tint * (1 - digit) / (1 - digit.amin(dim=(2, 3), keepdim=True)), atol=1e-5, rtol=0
    )
    stroke, background = digit > 0.95, digit < 0.05
    # On the background the texture is unchanged, under strokes it is inverted.
    for region in (stroke, background):
        inside = textured[region.expand_as(textured)]
        assert 0.1 < inside.std() < 0.3
        assert abs(inside.mean() - 0.5) < 0.05


def test_augmentation_depends_on_the_key_only(splits: dict[str, DigitsMultitaskSplit]) -> None:
    """Training samples differ between keys; the test split is always the same."""
    index_B = torch.arange(9)
    train, test = splits["train"], splits["test"]
    first = train.batch(index_B, rng_keys(0, index_B)).inputs
    again = train.batch(index_B.flip(0), rng_keys(0, index_B).flip(0)).inputs.flip(0)
    torch.testing.assert_close(first, again)
    other = train.batch(index_B, rng_keys(1, index_B)).inputs
    assert all(not torch.allclose(one, two) for one, two in zip(first, other, strict=True))
    assert torch.equal(test.batch(index_B, None).inputs, test.batch(index_B, None).inputs)
    textures = to_pixels(test.batch(torch.arange(1, 60, 3), None))
    assert len({tuple(image[:, 0, 0].tolist()) for image in textures}) == 20


def test_contrast() -> None:
    """The larger the contrast, the further the background is from grey."""
    deviations = []
    for contrast in (0.2, 0.9):
        split = DigitsMultitask(DigitsMultitask.Config(contrast=contrast), reject_component).open()["test"]
        pixels = to_pixels(split.batch(torch.arange(1, 300, 3), None))
        # The pixel in the corner is never part of a digit.
        deviations.append(float((pixels[:, :, 0, 0] - 0.5).std()))
    assert deviations[0] < 0.5 * deviations[1]
