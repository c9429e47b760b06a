"""The update of an attention unit, as modulated attention with longer queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.contracts import Pairs


def update_attention(
    query_RHK: Tensor, key_RHK: Tensor, value_RHE: Tensor, field_RD: Tensor | float, pairs: Pairs
) -> Tensor:
    """sum_j w_j v_j with w = softmax_j(log c_j + q . k_j / sqrt(K) + v_j . field), heads concatenated, [R, D].

    The field is what the other units contribute to the logit of a value. Both terms of the logit are computed as one product of
    longer queries and keys.

    Args:
        query_RHK: Queries.
        key_RHK: Keys.
        value_RHE: Values.
        field_RD: The field, heads concatenated; 0.0 before the other units are computed.
        pairs: The pairs of function and element.
    """
    if isinstance(field_RD, Tensor):
        # `Pairs.attention` divides logits by the root of this width; the factors below compensate for that.
        width = query_RHK.shape[-1] + value_RHE.shape[-1]
        query_RHK = query_RHK * (width / query_RHK.shape[-1]) ** 0.5
        query_RHK = torch.cat([query_RHK, field_RD.unflatten(-1, value_RHE.shape[-2:]) * width**0.5], dim=-1)
        key_RHK = torch.cat([key_RHK, value_RHE], dim=-1)
    return pairs.attention(query_RHK, key_RHK, value_RHE, None).flatten(-2)


def mean_value(value_RHE: Tensor, pairs: Pairs) -> Tensor:
    """sum_j c_j v_j / sum_j c_j, heads concatenated, [R, D]: the initial state of attention, before any update."""
    equal_RH1 = torch.zeros_like(value_RHE[..., :1])
    return pairs.attention(equal_RH1, equal_RH1, value_RHE, None).flatten(-2)
