"""The head `classify` and the data set `digits`."""

from __future__ import annotations

import math

import pytest
import torch
from ni_standard.data.digits import Digits
from ni_standard.heads.classify import Classify

from ni_framework.contracts import ComponentSpec
from ni_framework.nn.random import rng_keys


def reject_component(kind: str, choice: ComponentSpec, *sizes: object) -> object:
    """A component factory for data sets that contain no other component."""
    raise AssertionError(kind)


def build_head(**options: float | bool) -> Classify:
    return Classify(Classify.Config(**options), 5, {"a": 3, "b": 3})  # pyright: ignore[reportArgumentType]


def test_loss_and_metrics_of_each_sample() -> None:
    logits, target = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])
    expected = [
        -math.log(math.exp(row[t]) / sum(map(math.exp, row))) for row, t in zip(logits.tolist(), [0, 1], strict=True)
    ]
    assert build_head().loss(logits, target).tolist() == pytest.approx(expected)
    metrics = build_head(label_smoothing=0.3).metrics(logits, target)
    assert metrics["loss"].tolist() == pytest.approx(expected)
    assert metrics["accuracy"].tolist() == [1.0, 0.0]


def test_label_smoothing_changes_the_training_loss_only() -> None:
    logits, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    log_p = torch.log_softmax(logits, dim=-1)[0]
    expected = -(0.7 * log_p[0] + 0.3 * log_p.mean())
    assert build_head(label_smoothing=0.3).loss(logits, target).item() == pytest.approx(expected.item())


def test_cls_tokens_of_shared_and_separate_cls() -> None:
    shared, own = build_head(shared_cls=True), build_head()
    cls_LD, multiplicity = shared.cls_tokens(("a", "b"))
    assert cls_LD.shape == (1, 5)
    assert multiplicity == 2
    assert shared.cls_tokens(("b",))[1] == 1
    cls_LD, multiplicity = own.cls_tokens(("b", "a"))
    assert multiplicity == 1
    assert torch.equal(cls_LD, own.cls[[1, 0]])


def test_splits_are_stratified_by_class() -> None:
    splits = Digits(Digits.Config(), reject_component).open()
    train, test = splits["train"], splits["test"]
    assert len(train) == 1400
    assert len(test) == 397
    shares = [torch.bincount(split.label, minlength=10) / len(split) for split in (train, test)]
    torch.testing.assert_close(*shares, atol=0.005, rtol=0)
    images = torch.cat([train.image, test.image])
    assert len(images.flatten(1).unique(dim=0)) > 1790, "samples are in both splits"
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05


def test_augmentation_depends_on_the_key_only() -> None:
    split = Digits(Digits.Config(), reject_component).open()["train"]
    index_B = torch.arange(6)
    plain, augmented = split.batch(index_B, None), split.batch(index_B, rng_keys(3, index_B))
    again, other = (
        split.batch(index_B.flip(0), rng_keys(3, index_B).flip(0)),
        split.batch(index_B, rng_keys(4, index_B)),
    )
    assert plain.inputs.shape == (6, *Digits.shape)
    assert torch.equal(plain.inputs, split.image[:6])
    torch.testing.assert_close(again.inputs.flip(0), augmented.inputs)
    assert not torch.equal(augmented.inputs, plain.inputs)
    assert not torch.equal(augmented.inputs, other.inputs)
    assert torch.equal(augmented.targets["digits"], split.label[:6])
    assert bool(augmented.inputs.isfinite().all())


def test_augmentation_with_zero_limits_changes_nothing() -> None:
    split = Digits(Digits.Config(rotation=0.0, scale=0.0, shear=0.0, shift=0.0), reject_component).open()["train"]
    augmented = split.batch(torch.arange(4), rng_keys(3, torch.arange(4)))
    torch.testing.assert_close(augmented.inputs, split.image[:4], atol=1e-5, rtol=0)


def test_shift_pads_with_background() -> None:
    """Pixels from outside of the image have the value of a pixel of 0, which is black, not grey."""
    split = Digits(Digits.Config(rotation=0.0, scale=0.0, shear=0.0, shift=8.0), reject_component).open()["train"]
    index_B = torch.arange(40)
    augmented = split.batch(index_B, rng_keys(3, index_B)).inputs
    assert augmented.min() == pytest.approx(split.image.min().item(), abs=1e-5)
    corner = augmented[:, 0, 0, 0]
    assert (corner - split.image.min()).abs().median() < 1e-5
