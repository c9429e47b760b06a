"""Convolution over a grid of which each function takes a part."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import Pairs


def masked_convolution(z_RD: Tensor, kernel_UDYX: Tensor, grid: tuple[int, int], pairs: Pairs) -> Tensor:
    """sum_j w_ij K_u[j - i] * z_j over the places j around i, w_ij = c_uj / sum_j c_uj: rows [R, D] -> [R, D].

    The last elements lie on the grid, row by row; those before it get 0. Feature by feature, in zeros beyond the edges;
    K[0, 0] is the tap of the upper left neighbour. Where a function takes none of the places around i, the answer is 0.
    """
    num_places, size = math.prod(grid), kernel_UDYX.shape[-1]
    given_BUVD = pairs.place(pairs.compatibility * z_RD)
    weight_BUV1 = pairs.place(pairs.compatibility)

    def on_grid(value_BUVX: Tensor) -> Tensor:
        return value_BUVX[:, :, -num_places:].transpose(-1, -2).unflatten(-1, grid)  # [B, U, X, rows, columns]

    given = on_grid(given_BUVD)
    taps = kernel_UDYX.flatten(0, 1).unsqueeze(1)  # a group for each function and feature
    summed = F.conv2d(given.flatten(1, 2), taps, padding=size // 2, groups=len(taps)).unflatten(1, given.shape[1:3])
    # Means over the window, edges as zeros; not a convolution, which autocast would round.
    total = size**2 * F.avg_pool2d(on_grid(weight_BUV1).flatten(1, 2), size, stride=1, padding=size // 2).unsqueeze(2)
    near = summed / torch.where(total > 0, total, 1)
    lead = given_BUVD.shape[2] - num_places
    return pairs.take(F.pad(near.flatten(-2).transpose(-1, -2), (0, 0, lead, 0)))
