"""Compatibilities from types and signatures: how much of an element each function takes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def to_unit_length(vector: Tensor) -> Tensor:
    """Returns the vectors scaled to length one along the last dimension: types and signatures are directions."""
    return F.normalize(vector, dim=-1)


def cosine_distance(type_BVT: Tensor, signature_UT: Tensor) -> Tensor:
    """Returns the cosine distance of every pair, [B, U, V] in [0, 2]; both arguments are unit vectors.

    Source: Neural Interpreters, section 3.2: d_ui = 1 - s_u . t_i.
    """
    return 1 - torch.einsum("ut,bvt->buv", signature_UT, type_BVT)


def truncated_kernel(distance_BUV: Tensor, bandwidth: Tensor, truncation: float) -> Tensor:
    """Returns kernel values [B, U, V] in [0, 1]: k_ui = exp(-d_ui / sigma) where d_ui < tau, else 0 without gradient.

    Source: Neural Interpreters, equation 2.

    Args:
        distance_BUV: distances d_ui in [0, 2].
        bandwidth: sigma, a scalar, which the caller keeps positive.
        truncation: tau.
    """
    return torch.where(distance_BUV < truncation, torch.exp(-distance_BUV / bandwidth), 0)


def normalise_kernel(kernel_BUV: Tensor, eps: float = 1e-6) -> Tensor:
    """Returns compatibilities [B, U, V]: c_ui = k_ui / (eps + sum_u k_ui).

    They sum to one over the functions (up to eps) where at least one is open, and to zero where all are closed.
    Source: Neural Interpreters, equation 2.
    """
    return kernel_BUV / (eps + kernel_BUV.sum(dim=1, keepdim=True))
