"""The order of samples is a function of seed and step."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.contracts import Batch
from ni_framework.data.sampler import Order


class Numbers:
    """Samples that are their own index, and show the key they were given."""

    def __len__(self) -> int:
        return 11

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        assert key_B is not None
        return Batch(index_B, {"key": key_B})


def test_every_epoch_has_every_sample_once() -> None:
    """Batches reach over the end of an epoch, and none is lost or repeated."""
    order = Order(Numbers(), 4, seed=0)
    seen = torch.cat([order[step].inputs for step in range(11)])
    epochs = seen.split(11)
    assert len(epochs) == 4
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(11))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_order_does_not_depend_on_the_size_of_a_batch_or_on_earlier_steps() -> None:
    """A batch of 12 is three of 4; a step can be asked for alone; keys belong to positions."""
    small, large = Order(Numbers(), 4, seed=0), Order(Numbers(), 12, seed=0)
    three = [small[step] for step in (5, 3, 4)]
    for name in ("inputs", "key"):
        values = [
            batch.inputs if name == "inputs" else batch.targets["key"] for batch in (three[1], three[2], three[0])
        ]
        whole = large[1].inputs if name == "inputs" else large[1].targets["key"]
        assert torch.equal(torch.cat(values), whole)


def test_seed_changes_order_and_keys() -> None:
    """Two seeds share neither."""
    first, second = Order(Numbers(), 11, seed=0)[0], Order(Numbers(), 11, seed=1)[0]
    assert not torch.equal(first.inputs, second.inputs)
    assert not set(first.targets["key"].tolist()) & set(second.targets["key"].tolist())
