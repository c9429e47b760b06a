"""PonderNet: after each iteration an element halts with a learned probability, regularised by a geometric prior."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.contracts import ComponentFactory, Context, Halting, Sizes
from ni_framework.options import config, option
from ni_halting.halting_unit import HaltingUnit
from ni_halting.mean_over_present import mean_over_present


class Ponder(Halting):
    """p_i = lambda_i prod_{j<i} (1 - lambda_j): [B, V, D] -> [B, V], with lambda_i from `HaltingUnit`.

    The loss "ponder" is weight * mean KL(p || q) over present elements, with the geometric prior q_i = (1 - r)^(i-1) r and
    r = 1 / mean. The prior is truncated like p: the last iteration takes the remainder, q_I = (1 - r)^(I-1). So the loss is 0 if
    every lambda_i is r. Source: Banino, Balaguer, Blundell, "PonderNet: Learning to Ponder", 2021. There the training loss is
    the expectation of the losses after each iteration, and evaluation draws the iteration after which to halt. Here the state
    is the expectation, in training and in evaluation, because a head reads all elements, which halt at different times.
    Evaluation skips iterations by `threshold` instead.
    """

    api = 2

    @config
    class Config:
        weight: float = option(default=0.01, ge=0, help="weight of the divergence from the prior in the training loss")
        mean: float = option(
            default=3.0, gt=1, help="expected number of iterations under the prior, if it were not truncated"
        )
        threshold: float = option(
            default=0.2,
            ge=0,
            lt=1,
            help="in evaluation, an element halts when its remaining probability is at most this; 0 runs all iterations",
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.config = config
        # lambda = 1 / mean, so that training starts at the prior.
        self.unit = HaltingUnit(sizes.width, -math.log(config.mean - 1))

    def forward(self, x_BVD: Tensor, remaining_BV: Tensor, context: Context) -> Tensor:
        halt_BV = self.unit(x_BVD, remaining_BV.dtype) * remaining_BV
        # Not in training, because an element that halts here receives no gradient that could make it continue.
        threshold = 0 if self.training else self.config.threshold
        # `remaining_BV` itself, so that exactly 0 remains. It is 0 for elements that halted before.
        return torch.where(remaining_BV - halt_BV <= threshold, remaining_BV, halt_BV)

    def cost(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Mapping[str, Tensor]:
        index_I = torch.arange(len(halt_IBV), device=halt_IBV.device, dtype=halt_IBV.dtype)
        log_prior_I = index_I * math.log1p(-1 / self.config.mean)
        log_prior_I[:-1] -= math.log(self.config.mean)
        # The logarithm of 1 where p is 0, because 0 log 0 is 0 and its gradient would be NaN.
        log_IBV = torch.where(halt_IBV > 0, halt_IBV, 1).log() - log_prior_I[:, None, None]
        return {"ponder": self.config.weight * mean_over_present((halt_IBV * log_IBV).sum(dim=0), present_BV)}
