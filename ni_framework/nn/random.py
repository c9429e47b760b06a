"""Random numbers that are functions of a key: the same for any number of data workers or ranks, and after a resume."""

from __future__ import annotations

import torch
from torch import Tensor

# 0x9E3779B97F4A7C15 as a signed number.
_INCREMENT = -7046029254386353131


def _mix(state: Tensor) -> Tensor:
    """Applies the finaliser of splitmix64 to int64; products wrap around, as the algorithm requires."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        state = (state ^ _shift(state, shift)) * factor
    return state ^ _shift(state, 31)


def _shift(state: Tensor, bits: int) -> Tensor:
    """Shifts logically to the right; torch's own shift copies the sign bit."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def rng_keys(seed: int, index: Tensor) -> Tensor:
    """Returns one 64-bit key for each index (int64, any shape), decorrelated over both seed and index."""
    return _mix(_mix(index * _INCREMENT + _INCREMENT) ^ seed)


def uniform(key_B: Tensor, *shape: int) -> Tensor:
    """Returns numbers in [0, 1), float32 [B, *shape]; those of a sample depend on its key alone.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (splitmix64), counter-based.
    """
    count = 1
    for size in shape:
        count *= size
    counter = torch.arange(1, count + 1, device=key_B.device)
    bits = _mix(key_B[:, None] + counter * _INCREMENT)
    return (_shift(bits, 40).float() * 2**-24).view(len(key_B), *shape)
