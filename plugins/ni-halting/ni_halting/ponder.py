"""PonderNet: after each iteration an element halts with a probability of its own, held near a geometric prior."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.contracts import Build, Context, Halting, Sizes
from ni_framework.options import config, option
from ni_halting.halting_unit import HaltingUnit
from ni_halting.mean_over_present import mean_over_present


class Ponder(Halting):
    """p_i = lambda_i prod_{j<i} (1 - lambda_j): [B, V, D] -> [B, V], lambda_i the `HaltingUnit`'s answer.

    The loss "ponder" is weight * mean KL(p || q), over present elements, with the geometric prior q_i = (1 - r)^(i-1) r,
    r = 1 / mean, which is truncated as p is: the last iteration takes what is left, q_I = (1 - r)^(I-1). So it is 0 where
    every lambda_i is r. Source: Banino, Balaguer, Blundell, "PonderNet: Learning to Ponder", 2021. There the training loss is
    the expectation of the losses after each iteration, and evaluation draws when to halt; here the state is the
    expectation, in training and evaluation alike, because a head reads all elements, which halt at different times. What
    evaluation saves comes from `threshold`.
    """

    api = 1

    @config
    class Config:
        weight: float = option(default=0.01, ge=0, help="of the divergence from the prior in the training loss")
        mean: float = option(
            default=3.0, gt=1, help="expected number of iterations under the prior, if it were not truncated"
        )
        threshold: float = option(
            default=0.2,
            ge=0,
            lt=1,
            help="in evaluation, an element halts for good once no more than this is left of it; 0: all iterations of all",
        )

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.config = config
        self.unit = HaltingUnit(sizes.width, -math.log(config.mean - 1))  # lambda = 1 / mean: starts at the prior

    def forward(self, x_BVD: Tensor, left_BV: Tensor, context: Context) -> Tensor:
        halt_BV = self.unit(x_BVD, left_BV.dtype) * left_BV
        # Not in training: an element that halts for good right away has no gradient that would ever make it go on.
        threshold = 0 if self.training else self.config.threshold
        # `left_BV` itself, so that exactly 0 remains; of one that halted before, that is 0.
        return torch.where(left_BV - halt_BV <= threshold, left_BV, halt_BV)

    def price(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Mapping[str, Tensor]:
        place_I = torch.arange(len(halt_IBV), device=halt_IBV.device, dtype=halt_IBV.dtype)
        log_prior_I = place_I * math.log1p(-1 / self.config.mean)
        log_prior_I[:-1] -= math.log(self.config.mean)
        # log of 1 where nothing halts: 0 log 0 is 0, and its gradient must be no NaN.
        log_IBV = torch.where(halt_IBV > 0, halt_IBV, 1).log() - log_prior_I[:, None, None]
        return {"ponder": self.config.weight * mean_over_present((halt_IBV * log_IBV).sum(dim=0), present_BV)}
