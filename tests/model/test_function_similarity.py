"""Distances between functions, near duplicates, and the functions that elements are assigned to."""

from __future__ import annotations

import math

import pytest
import torch

from ni_framework.model.function_similarity import (
    NEAR_DUPLICATE_DISTANCE,
    assigned_function,
    assignment_confusion,
    function_distances,
    near_duplicates,
    nearest_functions,
)


def test_distance_is_one_minus_cos_of_equal_lengths() -> None:
    """0 for the same direction, 1 for orthogonal vectors, 2 for the opposite; zero vectors have no distance."""
    vector_UX = torch.tensor([[3.0, 0, 0], [0, 3, 0], [-3, 0, 0], [1.8, 2.4, 0]])
    expected = [[0, 1, 2, 0.4], [1, 0, 1, 0.2], [2, 1, 0, 1.6], [0.4, 0.2, 1.6, 0]]
    assert torch.allclose(function_distances(vector_UX), torch.tensor(expected, dtype=torch.float64))
    assert function_distances(torch.zeros(2, 3)).tolist() == [[0, 0], [0, 0]]


def test_distance_depends_on_lengths() -> None:
    """A code of half the length has a distance: |a - b|^2 / (|a|^2 + |b|^2)."""
    distance_UU = function_distances(torch.tensor([[2.0, 0], [1, 0]]))
    assert distance_UU[0, 1] == pytest.approx(1 / 5)


def test_nearest_is_another_function() -> None:
    distance_UU = function_distances(torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]]))
    assert nearest_functions(distance_UU).tolist() == [2, 2, 1]  # pyright: ignore[reportOptionalMemberAccess]
    assert nearest_functions(torch.zeros(1, 1)) is None


def test_near_duplicates_have_equal_signatures_and_codes() -> None:
    """One of both is not enough; the bound is an angle of 2.56 degrees."""
    apart = [math.radians(degrees) for degrees in (0, 2.5, 5.1, 90)]
    angle_UX = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in apart])
    near_UU, same_UU = function_distances(angle_UX), torch.zeros(4, 4)
    assert math.degrees(math.acos(1 - NEAR_DUPLICATE_DISTANCE)) == pytest.approx(2.56, abs=0.01)
    assert near_duplicates(near_UU, same_UU) == [(0, 1)]
    assert near_duplicates(same_UU, near_UU) == [(0, 1)]
    other_UU = function_distances(torch.eye(4))
    assert near_duplicates(near_UU, other_UU) == near_duplicates(other_UU, near_UU) == []


def test_assigned_functions_and_confusion() -> None:
    """The largest compatibility decides; no function counts as one more; other elements are not counted."""
    one_BUV = torch.tensor([[[0.7, 0.0, 0.4, 0.0], [0.3, 0.0, 0.6, 0.0]]])
    other_BUV = torch.tensor([[[0.1, 0.0, 0.9, 0.0], [0.2, 0.0, 0.1, 0.0], [0.7, 0.5, 0.0, 0.0]]])
    assert assigned_function(one_BUV).tolist() == [[0, 2, 1, 2]]
    assert assigned_function(other_BUV).tolist() == [[2, 2, 0, 3]]
    counts_BV = torch.tensor([[True, True, True, True]])
    assert assignment_confusion(one_BUV, other_BUV, counts_BV).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1]]
    counts_BV[0, 2:] = False
    assert assignment_confusion(one_BUV, other_BUV, counts_BV).tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
