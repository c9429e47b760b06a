"""Adaptive Computation Time: an element halts once its halting units add up to one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.contracts import Build, Context, Halting, Sizes
from ni_framework.options import config, option
from ni_halting.halting_unit import HaltingUnit
from ni_halting.mean_over_present import mean_over_present


class ACT(Halting):
    """p_i = h_i until their sum reaches 1 - eps, then all that is left: [B, V, D] -> [B, V], h_i the `HaltingUnit`'s answer.

    With N the iteration that an element halts in and R = 1 - sum_{i<N} h_i what it had left, the loss "ponder" is
    weight * mean (N + R), over present elements; N is a count, so gradient flows through R alone, and lowers it by raising
    every h_i before N. Source: Graves, "Adaptive Computation Time", 2016, equations 5 to 14; per element as in
    Dehghani et al., "Universal Transformers", 2019. There an element that has halted is still read by the others; here no
    function takes it any more, so that nobody reads it and packed execution does not compute it.
    """

    api = 1

    @config
    class Config:
        weight: float = option(default=0.001, ge=0, help="of the price N + R in the training loss")
        eps: float = option(default=0.01, gt=0, lt=1, help="an element halts once no more than this is left of it")
        bias: float = option(
            default=0.0,
            help="of the halting unit at the start: 1 halts after about two iterations, -1 after about four",
        )

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.config = config
        self.unit = HaltingUnit(sizes.width, config.bias)

    def forward(self, x_BVD: Tensor, left_BV: Tensor, context: Context) -> Tensor:
        h_BV = self.unit(x_BVD, left_BV.dtype)
        # `left_BV` itself, so that exactly 0 remains; of one that halted before, that is 0.
        return torch.where(left_BV - h_BV <= self.config.eps, left_BV, h_BV)

    def price(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Mapping[str, Tensor]:
        number_I = torch.arange(1, len(halt_IBV) + 1, device=halt_IBV.device)
        number_BV = torch.where(halt_IBV > 0, number_I[:, None, None], 0).amax(
            dim=0
        )  # N: the last one that got anything
        remainder_BV = halt_IBV.gather(0, (number_BV.unsqueeze(0) - 1).clamp_min(0)).squeeze(0)  # NaN halts nowhere
        return {"ponder": self.config.weight * mean_over_present(number_BV + remainder_BV, present_BV)}
