"""Distances between functions, twins, and who takes an element."""

from __future__ import annotations

import math

import pytest
import torch

from ni_framework.model.function_similarity import TWINS, function_distances, moves, nearest, takers, twins


def test_distance_is_one_minus_cos_of_equal_lengths() -> None:
    """0 for the same direction, 1 across, 2 for the opposite; zeros are no distance from each other."""
    vector_UX = torch.tensor([[3.0, 0, 0], [0, 3, 0], [-3, 0, 0], [1.8, 2.4, 0]])
    expected = [[0, 1, 2, 0.4], [1, 0, 1, 0.2], [2, 1, 0, 1.6], [0.4, 0.2, 1.6, 0]]
    assert torch.allclose(function_distances(vector_UX), torch.tensor(expected, dtype=torch.float64))
    assert function_distances(torch.zeros(2, 3)).tolist() == [[0, 0], [0, 0]]


def test_distance_sees_lengths() -> None:
    """A code of half the length is another code: |a - b|^2 / (|a|^2 + |b|^2)."""
    distance_UU = function_distances(torch.tensor([[2.0, 0], [1, 0]]))
    assert distance_UU[0, 1] == pytest.approx(1 / 5)


def test_nearest_is_another_function() -> None:
    distance_UU = function_distances(torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]]))
    assert nearest(distance_UU).tolist() == [2, 2, 1]  # pyright: ignore[reportOptionalMemberAccess]
    assert nearest(torch.zeros(1, 1)) is None


def test_twins_have_both_nearly_equal() -> None:
    """Signature or code alone is not enough; the bound is an angle of 2.56 degrees."""
    apart = [math.radians(degrees) for degrees in (0, 2.5, 5.1, 90)]
    angle_UX = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in apart])
    near_UU, same_UU = function_distances(angle_UX), torch.zeros(4, 4)
    assert math.degrees(math.acos(1 - TWINS)) == pytest.approx(2.56, abs=0.01)
    assert twins(near_UU, same_UU) == [(0, 1)]
    assert twins(same_UU, near_UU) == [(0, 1)]
    other_UU = function_distances(torch.eye(4))
    assert twins(near_UU, other_UU) == twins(other_UU, near_UU) == []


def test_takers_and_moves() -> None:
    """The largest share takes an element; none counts as one function more; what does not count is left out."""
    one_BUV = torch.tensor([[[0.7, 0.0, 0.4, 0.0], [0.3, 0.0, 0.6, 0.0]]])
    other_BUV = torch.tensor([[[0.1, 0.0, 0.9, 0.0], [0.2, 0.0, 0.1, 0.0], [0.7, 0.5, 0.0, 0.0]]])
    assert takers(one_BUV).tolist() == [[0, 2, 1, 2]]
    assert takers(other_BUV).tolist() == [[2, 2, 0, 3]]
    counts_BV = torch.tensor([[True, True, True, True]])
    assert moves(one_BUV, other_BUV, counts_BV).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1]]
    counts_BV[0, 2:] = False
    assert moves(one_BUV, other_BUV, counts_BV).tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
