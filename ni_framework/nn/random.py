"""Random numbers that are functions of a key: the same whatever the number of workers or processes, or after a resume."""

from __future__ import annotations

import torch
from torch import Tensor

_INCREMENT = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number


def _mix(state: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64, whose products wrap around as the algorithm wants."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        state = (state ^ _shift(state, shift)) * factor
    return state ^ _shift(state, 31)


def _shift(state: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: torch's own copies the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def keys(seed: int, index: Tensor) -> Tensor:
    """One 64-bit key for each index (int64, any shape), decorrelated over both seed and index."""
    return _mix(_mix(index * _INCREMENT + _INCREMENT) ^ seed)


def uniform(key_B: Tensor, *shape: int) -> Tensor:
    """Numbers in [0, 1), float32 [B, *shape], those of a sample a function of its key alone.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (splitmix64), counter-based.
    """
    count = 1
    for size in shape:
        count *= size
    counter = torch.arange(1, count + 1, device=key_B.device)
    bits = _mix(key_B[:, None] + counter * _INCREMENT)
    return (_shift(bits, 40).float() * 2**-24).view(len(key_B), *shape)
