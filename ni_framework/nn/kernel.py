"""From types and signatures to compatibilities: how much of an element each function takes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def unit(vector: Tensor) -> Tensor:
    """Vectors of length one along the last dimension: types and signatures are directions."""
    return F.normalize(vector, dim=-1)


def distance(type_BVT: Tensor, signature_UT: Tensor) -> Tensor:
    """Cosine distance of every pair, [B, U, V] in [0, 2]; both arguments are unit vectors.

    Source: Neural Interpreters, section 3.2: d_ui = 1 - s_u . t_i.
    """
    return 1 - torch.einsum("ut,bvt->buv", signature_UT, type_BVT)


def truncated_kernel(distance_BUV: Tensor, bandwidth: Tensor, truncation: float) -> Tensor:
    """Kernel values [B, U, V] in [0, 1]: k_ui = exp(-d_ui / sigma) where d_ui < tau, else 0, with no gradient there.

    Source: Neural Interpreters, equation 2. `bandwidth` (sigma, scalar) must be positive: keeping it so is the caller's.
    """
    return torch.where(distance_BUV < truncation, torch.exp(-distance_BUV / bandwidth), 0)


def normalised(kernel_BUV: Tensor, eps: float = 1e-6) -> Tensor:
    """Compatibilities [B, U, V]: c_ui = k_ui / (eps + sum_u k_ui).

    They sum to one over the functions (up to eps) where any is open, and to zero where none is. Source: Neural
    Interpreters, equation 2.
    """
    return kernel_BUV / (eps + kernel_BUV.sum(dim=1, keepdim=True))
