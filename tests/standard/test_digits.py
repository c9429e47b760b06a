"""The standard head and data set, as a run uses them."""

from __future__ import annotations

import math

import pytest
import torch
from ni_standard.data.digits import Digits
from ni_standard.heads.classify import Classify

from ni_framework.contracts import Choice
from ni_framework.nn.random import keys


def build(kind: str, choice: Choice, *sizes: object) -> object:
    """For data sets that hold no other component."""
    raise AssertionError(kind)


def head(**options: float | bool) -> Classify:
    return Classify(Classify.Config(**options), 5, {"a": 3, "b": 3})  # pyright: ignore[reportArgumentType]


def test_loss_and_metrics_of_each_sample() -> None:
    logits, target = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])
    expected = [
        -math.log(math.exp(row[t]) / sum(map(math.exp, row))) for row, t in zip(logits.tolist(), [0, 1], strict=True)
    ]
    assert head().loss(logits, target).tolist() == pytest.approx(expected)
    metrics = head(label_smoothing=0.3).metrics(logits, target)
    assert metrics["loss"].tolist() == pytest.approx(expected)
    assert metrics["accuracy"].tolist() == [1.0, 0.0]


def test_label_smoothing_spreads_the_target_in_training_alone() -> None:
    logits, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    log_p = torch.log_softmax(logits, dim=-1)[0]
    expected = -(0.7 * log_p[0] + 0.3 * log_p.mean())
    assert head(label_smoothing=0.3).loss(logits, target).item() == pytest.approx(expected.item())


def test_start_of_shared_and_own_cls() -> None:
    shared, own = head(shared_cls=True), head()
    cls_LD, multiplicity = shared.start(("a", "b"))
    assert (cls_LD.shape, multiplicity) == ((1, 5), 2)
    assert shared.start(("b",))[1] == 1
    cls_LD, multiplicity = own.start(("b", "a"))
    assert multiplicity == 1
    assert torch.equal(cls_LD, own.cls[[1, 0]])


def test_digits_are_divided_by_class() -> None:
    splits = Digits(Digits.Config(), build).open()
    train, test = splits["train"], splits["test"]
    assert (len(train), len(test)) == (1400, 397)
    shares = [torch.bincount(split.label, minlength=10) / len(split) for split in (train, test)]
    torch.testing.assert_close(*shares, atol=0.005, rtol=0)
    images = torch.cat([train.image, test.image])
    assert len(images.flatten(1).unique(dim=0)) > 1790  # no sample is in both
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05


def test_digits_are_moved_by_their_key_alone() -> None:
    split = Digits(Digits.Config(), build).open()["train"]
    index_B = torch.arange(6)
    plain, moved = split.batch(index_B, None), split.batch(index_B, keys(3, index_B))
    again, other = split.batch(index_B.flip(0), keys(3, index_B).flip(0)), split.batch(index_B, keys(4, index_B))
    assert plain.inputs.shape == (6, *Digits.shape)
    assert torch.equal(plain.inputs, split.image[:6])
    torch.testing.assert_close(again.inputs.flip(0), moved.inputs)
    assert not torch.equal(moved.inputs, plain.inputs)
    assert not torch.equal(moved.inputs, other.inputs)
    assert torch.equal(moved.targets["digits"], split.label[:6])
    assert bool(moved.inputs.isfinite().all())


def test_digits_without_movement_stay() -> None:
    split = Digits(Digits.Config(rotation=0.0, scale=0.0, shear=0.0, shift=0.0), build).open()["train"]
    moved = split.batch(torch.arange(4), keys(3, torch.arange(4)))
    torch.testing.assert_close(moved.inputs, split.image[:4], atol=1e-5, rtol=0)


def test_a_shift_brings_in_background() -> None:
    """Pixels that come in from outside are black, not grey: the value of a pixel of 0."""
    split = Digits(Digits.Config(rotation=0.0, scale=0.0, shear=0.0, shift=8.0), build).open()["train"]
    index_B = torch.arange(40)
    moved = split.batch(index_B, keys(3, index_B)).inputs
    assert moved.min() == pytest.approx(split.image.min().item(), abs=1e-5)
    corner = moved[:, 0, 0, 0]
    assert (corner - split.image.min()).abs().median() < 1e-5
