"""Which samples a step sees: a function of seed and step alone, whatever read them and however often it was interrupted."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.contracts import Batch, Split
from ni_framework.nn.init import seed_of
from ni_framework.nn.random import keys


class Order:
    """The training samples in the order of their use: one permutation an epoch, one after the other."""

    def __init__(self, split: Split, batch: int, seed: int, share: range | None = None) -> None:
        """`share` are the places in each batch that are read here; all of them, if others read none."""
        self.split, self.batch, self.seed = split, batch, seed
        self.share = range(batch) if share is None else share
        self._permutations: dict[int, Tensor] = {}

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, or the share of it that is read here."""
        position_B = self.positions(step)
        batch = self.split.batch(self.index(position_B), keys(seed_of(self.seed, "sample"), position_B))
        return batch._replace(key=keys(seed_of(self.seed, "model"), position_B))

    def positions(self, step: int) -> Tensor:
        """Where the samples of a step lie in the order, counted from the first step on."""
        return torch.arange(self.share.start, self.share.stop) + step * self.batch

    def index(self, position_B: Tensor) -> Tensor:
        """The samples at these positions, counted from the first step on."""
        size = len(self.split)
        index_B = torch.empty_like(position_B)
        for epoch in range(int(position_B[0]) // size, int(position_B[-1]) // size + 1):
            here = position_B // size == epoch
            index_B[here] = self._permutation(epoch)[position_B[here] % size]
        return index_B

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._permutations:
            while len(self._permutations) > 1:  # a batch may reach into the next epoch
                self._permutations.pop(next(iter(self._permutations)))
            generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
            self._permutations[epoch] = torch.randperm(len(self.split), generator=generator)
        return self._permutations[epoch]
