"""A model's random numbers: functions of the samples' keys, without the state of a generator."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from ni_framework.nn.init import derive_seed
from ni_framework.nn.random import rng_keys, uniform


@frozen
class KeyedNoise:
    """`contracts.Noise` of one iteration of a script: numbers depend on the sample's key, script, iteration and a name."""

    key_B: Tensor
    script: int
    iteration: int

    def uniform(self, name: str, *shape: int, per_forward: bool = False) -> Tensor:
        seed_key = (self.script, -1 if per_forward else self.iteration, name)
        return uniform(rng_keys(derive_seed(*seed_key), self.key_B), *shape)


def sample_keys(num_samples: int, device: torch.device, training: bool) -> Tensor:
    """Returns keys for a batch that has none: from torch's generator in training, from the position in the batch otherwise."""
    if training:
        return torch.randint(-(2**63), 2**63 - 1, (num_samples,), device=device)
    return rng_keys(0, torch.arange(num_samples, device=device))
