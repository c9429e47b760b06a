"""Which samples a step sees: determined by seed and step alone, whoever reads them and however often the run is resumed."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.contracts import Batch, Split
from ni_framework.nn.init import derive_seed
from ni_framework.nn.random import rng_keys


class EpochSampler:
    """The training samples in the order of their use: one permutation for each epoch."""

    def __init__(self, split: Split, batch_size: int, seed: int, local_range: range | None = None) -> None:
        """Creates the order of samples.

        Args:
            split: The training data.
            batch_size: The number of samples of a step, over all ranks.
            seed: The seed of the permutations and of the random keys of samples.
            local_range: The positions in each batch that this rank reads; all of them by default.
        """
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.local_range = range(batch_size) if local_range is None else local_range
        self._permutations: dict[int, Tensor] = {}

    def __getitem__(self, step: int) -> Batch:
        """Returns this rank's part of the batch of a step."""
        position_B = self.positions(step)
        sample_key_B = rng_keys(derive_seed(self.seed, "sample"), position_B)
        batch = self.split.batch(self.sample_indices(position_B), sample_key_B)
        return batch._replace(key=rng_keys(derive_seed(self.seed, "model"), position_B))

    def positions(self, step: int) -> Tensor:
        """Returns the positions of a step's samples in the order, counted from the first step; [B]."""
        return torch.arange(self.local_range.start, self.local_range.stop) + step * self.batch_size

    def sample_indices(self, position_B: Tensor) -> Tensor:
        """Returns the indices of the samples at these positions; [B]."""
        size = len(self.split)
        index_B = torch.empty_like(position_B)
        for epoch in range(int(position_B[0]) // size, int(position_B[-1]) // size + 1):
            in_epoch_B = position_B // size == epoch
            index_B[in_epoch_B] = self._permutation(epoch)[position_B[in_epoch_B] % size]
        return index_B

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._permutations:
            # Two are kept, because a batch may reach into the next epoch.
            while len(self._permutations) > 1:
                self._permutations.pop(next(iter(self._permutations)))
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", epoch))
            self._permutations[epoch] = torch.randperm(len(self.split), generator=generator)
        return self._permutations[epoch]
