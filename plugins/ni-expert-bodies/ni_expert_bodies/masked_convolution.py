"""Convolution over a grid of elements, weighted by the compatibilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import Pairs


def masked_convolution(z_RD: Tensor, kernel_UDYX: Tensor, grid: tuple[int, int], pairs: Pairs) -> Tensor:
    """sum_j w_ij K_u[j - i] * z_j over the neighbours j of i, with w_ij = c_uj / sum_j c_uj: rows [R, D] -> [R, D].

    The convolution is depth-wise, and the image is padded with zeros. The result is 0 for elements that have no position on the
    grid, and where a function takes no neighbour.

    Args:
        z_RD: The rows to convolve.
        kernel_UDYX: A kernel for each function and feature; K[0, 0] belongs to the upper left neighbour.
        grid: Rows and columns of the grid, on which the last elements are, row by row.
        pairs: The pairs of function and element.
    """
    num_places, size = math.prod(grid), kernel_UDYX.shape[-1]
    weighted_BUVD = pairs.to_dense(pairs.compatibility * z_RD)
    weight_BUV1 = pairs.to_dense(pairs.compatibility)

    def on_grid(value_BUVX: Tensor) -> Tensor:
        return value_BUVX[:, :, -num_places:].transpose(-1, -2).unflatten(-1, grid)  # [B, U, X, rows, columns]

    weighted = on_grid(weighted_BUVD)
    # One group of the convolution for each function and feature.
    taps = kernel_UDYX.flatten(0, 1).unsqueeze(1)
    summed = F.conv2d(weighted.flatten(1, 2), taps, padding=size // 2, groups=len(taps)).unflatten(
        1, weighted.shape[1:3]
    )
    # Sums over the window, padded with zeros. Not a convolution, because autocast would round it.
    total = size**2 * F.avg_pool2d(on_grid(weight_BUV1).flatten(1, 2), size, stride=1, padding=size // 2).unsqueeze(2)
    near = summed / torch.where(total > 0, total, 1)
    num_leading = weighted_BUVD.shape[2] - num_places
    return pairs.from_dense(F.pad(near.flatten(-2).transpose(-1, -2), (0, 0, num_leading, 0)))
