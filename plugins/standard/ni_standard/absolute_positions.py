"""Absolute positions."""

from __future__ import annotations

import torch
from torch import nn


class Positions(nn.Module):
    """One learned vector [N, D] for each place."""

    def __init__(self, num_elements: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(num_elements, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table, std=0.02)
