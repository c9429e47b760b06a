"""Functions beside one another: how far apart they lie, which are the same twice, and who takes an element."""

from __future__ import annotations

import torch
from torch import Tensor

# Distances below this are those of twins. It is an angle of 2.6 degrees, or 4.5 % of a vector's length: more than the noise
# that tells a copied function from its original, and out of reach of chance: of a thousand random directions in 16 dimensions
# the nearest two are 0.08 apart or more. In 4 dimensions they may be as near as twins, but not signatures and codes at once.
TWINS = 1e-3


def function_distances(vector_UX: Tensor) -> Tensor:
    """How far each vector lies from each other one, [U, U] in [0, 2]: |a - b|^2 / (|a|^2 + |b|^2).

    This is 1 - cos of vectors of one length, as signatures are, and more where the lengths differ, as those of codes may.
    """
    vector_UX = vector_UX.double()
    square_U = vector_UX.square().sum(dim=-1)
    both_UU = square_U[:, None] + square_U
    apart_UU = (both_UU - 2 * vector_UX @ vector_UX.T).clamp_min(0)
    distance_UU = torch.where(both_UU > 0, apart_UU / both_UU.clamp_min(torch.finfo(torch.float64).tiny), 0)
    return distance_UU.fill_diagonal_(0)


def nearest(distance_UU: Tensor) -> Tensor | None:
    """The number of each function's nearest other one, [U]; None where there is no other."""
    if len(distance_UU) < 2:
        return None
    return distance_UU.clone().fill_diagonal_(torch.inf).argmin(dim=1)


def twins(signature_UU: Tensor, code_UU: Tensor) -> list[tuple[int, int]]:
    """The pairs of functions whose signatures and codes are nearly equal, by both distances: they do the same work twice."""
    same_UU = (signature_UU < TWINS) & (code_UU < TWINS)
    return [(one, other) for one, other in same_UU.triu(diagonal=1).nonzero().tolist()]


def takers(compatibility_BUV: Tensor) -> Tensor:
    """The function that takes most of each element, [B, V]; U where none takes anything."""
    most_BV, taker_BV = compatibility_BUV.max(dim=1)
    return torch.where(most_BV > 0, taker_BV, compatibility_BUV.shape[1])


def moves(one_BUV: Tensor, other_BUV: Tensor, counts_BV: Tensor) -> Tensor:
    """How many elements have which taker in one and which in the other model, [U_one + 1, U_other + 1]; the last is none.

    Only elements where `counts_BV` is True count.
    """
    rows, columns = one_BUV.shape[1] + 1, other_BUV.shape[1] + 1
    place_BV = takers(one_BUV) * columns + takers(other_BUV)
    return torch.bincount(place_BV[counts_BV], minlength=rows * columns).view(rows, columns)
