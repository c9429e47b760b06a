"""Attention among the elements that one function takes."""

from __future__ import annotations

import torch
from torch import Tensor

# Far below any logit, but finite: a function without a single open element gets uniform weights instead of NaN. Its rows have
# compatibility 0, so that they are not used.
CLOSED_LOGIT = -1e30


def key_bias(compatibility: Tensor, multiplicity: Tensor | None = None) -> Tensor:
    """Returns what a key's compatibility adds to its logits: log c, and CLOSED_LOGIT where c is 0; same shape.

    `multiplicity` (broadcasts to the same shape) is the number of equal elements that a key represents: n equal keys with
    weight one each are exactly one key with n times the weight.
    """
    weight = compatibility if multiplicity is None else compatibility * multiplicity
    is_open = weight > 0
    # The log of 1 where closed: a log of 0 would produce NaN in the backward pass, even where `where` drops its value.
    return torch.where(is_open, torch.where(is_open, weight, 1).log(), CLOSED_LOGIT)


def modulated_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, position: Tensor | None) -> Tensor:
    """Returns attention whose weights are modulated by compatibility, [..., V, E].

    Source: Neural Interpreters, equations 4 and 5, w_ij = c_i c_j a_ij / sum_j c_i c_j a_ij with
    a = softmax_j((q_i . k_j + r_ij) / sqrt(K)). c_i cancels, and c_j is a bias log c_j inside one softmax, so there is no second
    normalisation and no eps; the author's code adds 1e-6 to the sum. Rows with c_i = 0 are not set to 0 here, because the
    caller multiplies them by c_i.

    Args:
        query: [..., V, K].
        key: [..., V, K].
        value: [..., V, E].
        bias: the result of `key_bias`, broadcasting to [..., V, V].
        position: unscaled logits r_ij of relative positions, broadcasting to [..., V, V]; None without positions.
    """
    scale = query.shape[-1] ** -0.5
    if position is not None:
        bias = bias + position * scale
    logits = (query * scale) @ key.transpose(-1, -2)
    # Functions that read the same rows through unmodulated maps share their logits, and differ in the bias alone.
    shared = torch.broadcast_shapes(logits.shape, bias.shape) != logits.shape
    logits = logits + bias if shared else logits.add_(bias)
    return torch.softmax(logits, dim=-1) @ value
