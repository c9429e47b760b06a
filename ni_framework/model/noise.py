"""Where a model's random numbers come from: keys of samples, never a generator that counts."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from ni_framework.nn.init import seed_of
from ni_framework.nn.random import keys, uniform


@frozen
class KeyedNoise:
    """`contracts.Noise` at one place of the program: numbers are functions of the sample's key, the place and a name."""

    key_B: Tensor
    script: int
    iteration: int

    def uniform(self, name: str, *shape: int, once: bool = False) -> Tensor:
        place = (self.script, -1 if once else self.iteration, name)
        return uniform(keys(seed_of(*place), self.key_B), *shape)


def sample_keys(num_samples: int, device: torch.device, training: bool) -> Tensor:
    """Keys for a batch that came without: from torch's generator in training, by place in the batch otherwise."""
    if training:
        return torch.randint(-(2**63), 2**63 - 1, (num_samples,), device=device)
    return keys(0, torch.arange(num_samples, device=device))
