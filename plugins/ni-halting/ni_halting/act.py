"""Adaptive Computation Time: an element halts when its halting probabilities sum to about one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.contracts import ComponentFactory, Context, Halting, Sizes
from ni_framework.options import config, option
from ni_halting.halting_unit import HaltingUnit
from ni_halting.mean_over_present import mean_over_present


class ACT(Halting):
    """p_i = h_i until their sum reaches 1 - eps, then the remainder: [B, V, D] -> [B, V], with h_i from `HaltingUnit`.

    Let N be the iteration in which an element halts, and R = 1 - sum_{i<N} h_i its remainder. The loss "ponder" is
    weight * mean (N + R) over present elements. N is a count, so the gradient passes through R alone and increases every h_i
    before N. Source: Graves, "Adaptive Computation Time", 2016, equations 5 to 14; per element as in Dehghani et al.,
    "Universal Transformers", 2019. There an element that has halted is still read by the others; here no function takes it, so
    it is not read, and packed execution does not compute it.
    """

    api = 2

    @config
    class Config:
        weight: float = option(default=0.001, ge=0, help="weight of N + R in the training loss")
        eps: float = option(
            default=0.01, gt=0, lt=1, help="an element halts when its remaining probability is at most this"
        )
        bias: float = option(
            default=0.0,
            help="initial bias of the halting unit: with 1 elements halt after about two iterations, with -1 after about four",
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.config = config
        self.unit = HaltingUnit(sizes.width, config.bias)

    def forward(self, x_BVD: Tensor, remaining_BV: Tensor, context: Context) -> Tensor:
        h_BV = self.unit(x_BVD, remaining_BV.dtype)
        # `remaining_BV` itself, so that exactly 0 remains. It is 0 for elements that halted before.
        return torch.where(remaining_BV - h_BV <= self.config.eps, remaining_BV, h_BV)

    def cost(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Mapping[str, Tensor]:
        number_I = torch.arange(1, len(halt_IBV) + 1, device=halt_IBV.device)
        # N, the last iteration with a probability above 0.
        number_BV = torch.where(halt_IBV > 0, number_I[:, None, None], 0).amax(dim=0)
        # Clamped, because N is 0 where probabilities are NaN.
        remainder_BV = halt_IBV.gather(0, (number_BV.unsqueeze(0) - 1).clamp_min(0)).squeeze(0)
        return {"ponder": self.config.weight * mean_over_present(number_BV + remainder_BV, present_BV)}
