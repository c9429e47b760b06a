"""Attention among the elements that one function takes."""

from __future__ import annotations

import torch
from torch import Tensor

# Far below any logit, yet finite: a function without a single open element gets uniform weights instead of NaN, and
# its rows have compatibility 0, so that nobody reads them.
CLOSED = -1e30


def key_bias(compatibility: Tensor, multiplicity: Tensor | None = None) -> Tensor:
    """What a key's compatibility adds to its logits: log c, and CLOSED where c is 0; same shape.

    `multiplicity` (broadcasts to the same shape) counts how many equal elements a key stands for: n equal keys with
    weight one each are one key with n times the weight, exactly.
    """
    weight = compatibility if multiplicity is None else compatibility * multiplicity
    opened = weight > 0
    # log of 1 where closed: a log of 0 would send NaN backward even where `where` drops its value.
    return torch.where(opened, torch.where(opened, weight, 1).log(), CLOSED)


def modulated_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, position: Tensor | None) -> Tensor:
    """Attention whose weights are modulated by compatibility, [..., V, E].

    `query`, `key` [..., V, K], `value` [..., V, E], `bias` from `key_bias`, broadcasting to [..., V, V], `position`
    likewise, scaled with the logits. Source: Neural Interpreters, equations 4 and 5,
    w_ij = c_i c_j a_ij / sum_j c_i c_j a_ij with a = softmax_j((q_i . k_j + r_ij) / sqrt(K)). c_i cancels and c_j is a
    bias log c_j inside one softmax, so there is no second normalisation and no eps: the author's code adds 1e-6 to
    the sum. Rows with c_i = 0 are not set to 0 here, because whoever reads them multiplies them by c_i.
    """
    scale = query.shape[-1] ** -0.5
    if position is not None:
        bias = bias + position * scale
    logits = (query * scale) @ key.transpose(-1, -2)
    # Functions that read the same with unmodulated maps share their logits, and differ by the bias alone.
    shared = torch.broadcast_shapes(logits.shape, bias.shape) != logits.shape
    logits = logits + bias if shared else logits.add_(bias)
    return torch.softmax(logits, dim=-1) @ value
