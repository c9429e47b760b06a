"""The mean in the losses of halting."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_over_present(value_BV: Tensor, present_BV: Tensor | None) -> Tensor:
    """Returns the mean over samples of each sample's mean over its present elements, a scalar.

    The mean of a batch is therefore the mean of its micro-batches.
    """
    if present_BV is None:
        present_BV = torch.ones_like(value_BV, dtype=torch.bool)
    mean_B = torch.where(present_BV, value_BV, 0).sum(dim=1) / present_BV.sum(dim=1).clamp_min(1)
    return mean_B.sum() / max(len(mean_B), 1)
