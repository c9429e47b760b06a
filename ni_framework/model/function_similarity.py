"""Functions compared: their distances, near duplicates, and which function takes an element."""

from __future__ import annotations

import torch
from torch import Tensor

# Functions nearer than this are near duplicates. It is an angle of 2.6 degrees, or 4.5 % of a vector's length. That is more than
# the noise by which a copied function differs from its original, and too little to occur by chance: of a thousand random
# directions in 16 dimensions, the nearest two are 0.08 apart or more. In 4 dimensions two of them may be as near as
# duplicates, but hardly signatures and codes at the same time.
NEAR_DUPLICATE_DISTANCE = 1e-3


def function_distances(vector_UX: Tensor) -> Tensor:
    """Returns the distance of each pair of vectors, [U, U] in [0, 2]: |a - b|^2 / (|a|^2 + |b|^2).

    For vectors of equal length, such as signatures, this is 1 - cos. It is larger if the lengths differ, as those of codes may.
    """
    vector_UX = vector_UX.double()
    square_U = vector_UX.square().sum(dim=-1)
    sum_of_squares_UU = square_U[:, None] + square_U
    squared_distance_UU = (sum_of_squares_UU - 2 * vector_UX @ vector_UX.T).clamp_min(0)
    distance_UU = torch.where(
        sum_of_squares_UU > 0, squared_distance_UU / sum_of_squares_UU.clamp_min(torch.finfo(torch.float64).tiny), 0
    )
    return distance_UU.fill_diagonal_(0)


def nearest_functions(distance_UU: Tensor) -> Tensor | None:
    """Returns the number of each function's nearest other function, [U]; None if there is only one function."""
    if len(distance_UU) < 2:
        return None
    return distance_UU.clone().fill_diagonal_(torch.inf).argmin(dim=1)


def near_duplicates(signature_UU: Tensor, code_UU: Tensor) -> list[tuple[int, int]]:
    """Returns the pairs of functions whose signatures and codes are both nearly equal, so that they do the same work twice."""
    same_UU = (signature_UU < NEAR_DUPLICATE_DISTANCE) & (code_UU < NEAR_DUPLICATE_DISTANCE)
    return [(one, other) for one, other in same_UU.triu(diagonal=1).nonzero().tolist()]


def assigned_function(compatibility_BUV: Tensor) -> Tensor:
    """Returns the function with the largest compatibility for each element, [B, V]; U where no function takes it."""
    most_BV, assigned_BV = compatibility_BUV.max(dim=1)
    return torch.where(most_BV > 0, assigned_BV, compatibility_BUV.shape[1])


def assignment_confusion(one_BUV: Tensor, other_BUV: Tensor, counts_BV: Tensor) -> Tensor:
    """Counts elements by the functions they are assigned to in two models, [U_one + 1, U_other + 1].

    The last row and the last column count the elements that no function takes.

    Args:
        one_BUV: compatibilities in one model.
        other_BUV: compatibilities in the other model.
        counts_BV: bool; only elements where it is True are counted.
    """
    rows, columns = one_BUV.shape[1] + 1, other_BUV.shape[1] + 1
    cell_BV = assigned_function(one_BUV) * columns + assigned_function(other_BUV)
    return torch.bincount(cell_BV[counts_BV], minlength=rows * columns).view(rows, columns)
