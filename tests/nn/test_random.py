"""Random numbers as functions of a key."""

from __future__ import annotations

import pytest
import torch

from ni_framework.nn.random import rng_keys, uniform

WORD_MASK = (1 << 64) - 1


def splitmix64(state: int) -> int:
    """One output of Steele, Lea and Flood's generator, from the state after its increment, in whole numbers."""
    state &= WORD_MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD_MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD_MASK
    return state ^ (state >> 31)


def to_int64(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


@pytest.mark.parametrize("key", [0, 1, 1234567, 2**62, -1, -(2**63)])
def test_numbers_are_those_of_splitmix64(key: int) -> None:
    """The upper 24 bits of each output, divided by 2^24."""
    found = uniform(torch.tensor([key]), 5)[0].tolist()
    expected = [(splitmix64(key + n * 0x9E3779B97F4A7C15) >> 40) / 2**24 for n in range(1, 6)]
    assert found == expected


def test_splitmix64_here_is_the_published_one() -> None:
    """The first outputs for the seed 1234567, as published."""
    assert splitmix64(1234567 + 0x9E3779B97F4A7C15) == 6457827717110365317
    assert splitmix64(1234567 + 2 * 0x9E3779B97F4A7C15) == 3203168211198807973


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (7, 3), (2**62, 10**9), (-5, 2)])
def test_keys(seed: int, index: int) -> None:
    inner = splitmix64((index + 1) * 0x9E3779B97F4A7C15)
    assert rng_keys(seed, torch.tensor([index])).tolist() == [to_int64(splitmix64(inner ^ (seed & WORD_MASK)))]


def test_numbers_are_in_the_unit_interval() -> None:
    draw = uniform(rng_keys(3, torch.arange(100)), 200)
    assert draw.dtype == torch.float32
    assert draw.min() >= 0
    assert draw.max() < 1
    assert abs(draw.double().mean().item() - 1 / 2) < 0.01
    assert abs(draw.double().var().item() - 1 / 12) < 0.005


def test_samples_and_places_are_uncorrelated() -> None:
    draw = uniform(rng_keys(3, torch.arange(64)), 500).double()
    correlation = torch.corrcoef(draw).fill_diagonal_(0).abs().max()
    assert correlation < 0.25
    assert torch.corrcoef(draw[:, :60].T).fill_diagonal_(0).abs().max() < 0.6


def test_numbers_depend_on_the_key_alone() -> None:
    """Not on other samples, on the position in the batch, or on a global generator."""
    key_B = rng_keys(0, torch.arange(8))
    torch.manual_seed(1)
    together = uniform(key_B, 3, 2)
    torch.manual_seed(2)
    assert torch.equal(uniform(key_B.flip(0), 3, 2).flip(0), together)
    assert torch.equal(uniform(key_B[4:5], 3, 2)[0], together[4])
    assert torch.equal(uniform(key_B, 6).view(8, 3, 2), together)


def test_keys_differ_by_seed_and_index() -> None:
    found = torch.stack([rng_keys(seed, torch.arange(300)) for seed in range(20)])
    assert len(found.unique()) == found.numel()
    assert rng_keys(1, torch.arange(6).view(2, 3)).shape == (2, 3)
