"""The update of an attention unit."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.contracts import Pairs


def attend(query_RHK: Tensor, key_RHK: Tensor, value_RHE: Tensor, field_RD: Tensor | float, pairs: Pairs) -> Tensor:
    """sum_j w_j v_j with w = softmax_j(log c_j + q . k_j / sqrt(K) + v_j . field), heads side by side, [R, D].

    The field is what the other units make of a value: with it, both terms are one product of longer queries and keys, whose
    own scale is taken back.
    """
    if isinstance(field_RD, Tensor):
        width = query_RHK.shape[-1] + value_RHE.shape[-1]  # `Pairs.attend` divides by its root
        query_RHK = query_RHK * (width / query_RHK.shape[-1]) ** 0.5
        query_RHK = torch.cat([query_RHK, field_RD.unflatten(-1, value_RHE.shape[-2:]) * width**0.5], dim=-1)
        key_RHK = torch.cat([key_RHK, value_RHE], dim=-1)
    return pairs.attend(query_RHK, key_RHK, value_RHE, None).flatten(-2)


def mean(value_RHE: Tensor, pairs: Pairs) -> Tensor:
    """sum_j c_j v_j / sum_j c_j, heads side by side, [R, D]: what attention reads before any unit is known."""
    equal_RH1 = torch.zeros_like(value_RHE[..., :1])
    return pairs.attend(equal_RH1, equal_RH1, value_RHE, None).flatten(-2)
