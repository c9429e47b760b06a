"""Learned absolute positions of elements."""

from __future__ import annotations

import torch
from torch import nn


class AbsolutePositions(nn.Module):
    """A learned vector for each position, [N, D]."""

    def __init__(self, num_elements: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(num_elements, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table, std=0.02)
