"""The order of samples depends on seed and step only."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.contracts import Batch
from ni_framework.data.sampler import EpochSampler


class IndexSplit:
    """Samples that are their own index; the target is their random key."""

    def __len__(self) -> int:
        return 11

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        assert key_B is not None
        return Batch(index_B, {"key": key_B})


def test_every_epoch_has_every_sample_once() -> None:
    """Batches cross the end of an epoch, and no sample is lost or repeated."""
    sampler = EpochSampler(IndexSplit(), 4, seed=0)
    seen = torch.cat([sampler[step].inputs for step in range(11)])
    epochs = seen.split(11)
    assert len(epochs) == 4
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(11))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_order_is_independent_of_batch_size_and_earlier_steps() -> None:
    """A batch of 12 equals three batches of 4, which can be read in any order; random keys belong to positions."""
    small, large = EpochSampler(IndexSplit(), 4, seed=0), EpochSampler(IndexSplit(), 12, seed=0)
    three = [small[step] for step in (5, 3, 4)]
    for name in ("inputs", "key"):
        values = [
            batch.inputs if name == "inputs" else batch.targets["key"] for batch in (three[1], three[2], three[0])
        ]
        whole = large[1].inputs if name == "inputs" else large[1].targets["key"]
        assert torch.equal(torch.cat(values), whole)


def test_seed_changes_order_and_keys() -> None:
    """Two seeds give another order and other random keys."""
    first, second = EpochSampler(IndexSplit(), 11, seed=0)[0], EpochSampler(IndexSplit(), 11, seed=1)[0]
    assert not torch.equal(first.inputs, second.inputs)
    assert not set(first.targets["key"].tolist()) & set(second.targets["key"].tolist())
