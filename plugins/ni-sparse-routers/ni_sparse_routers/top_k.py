"""A router in which each element chooses the nearest functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ni_framework.contracts import ComponentFactory, Context, Output, Sizes
from ni_framework.errors import OptionError
from ni_framework.options import config, option
from ni_sparse_routers.affinity import TIE_TOLERANCE, AffinityOptions, AffinityRouter
from ni_sparse_routers.losses import balance_loss, router_z_loss


class TopK(AffinityRouter):
    """The k functions whose signatures are nearest to its type take an element: -> [B, U, V], 0 for all others.

    c_ui = softmax_u(s_u . t_i / sigma) over the k (`share: chosen`, Shazeer et al. 2017, "Outrageously large neural
    networks", equation 3) or over all functions (`share: all`, Fedus et al. 2022, "Switch Transformers", equation 2). The losses
    in training are "balance" and "router_z" (see `losses`). Functions as near as the k-th one take the element too, so that the
    order of functions does not matter and equal functions are used equally. Unlike in the first paper there is no noise on the
    logits, and unlike in the second no capacity: no element is dropped.
    """

    @config
    class Config(AffinityOptions):
        k: int = option(default=2, ge=1, help="number of functions that take an element")
        share: Literal["chosen", "all"] = option(
            default="chosen",
            help="chosen: compatibilities sum to 1 over the k functions; all: to 1 over all functions, of which only k are open",
        )
        balance: float = option(
            default=0.01,
            ge=0,
            help="weight of the loss `balance`, which makes the use of functions even; 0 disables it",
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__(config, sizes, build)
        if config.k > sizes.functions:
            raise OptionError(
                "k",
                f"an element cannot go to {config.k} of {sizes.functions} functions",
                f"choose at most {sizes.functions}, or raise the number of functions",
            )
        if config.k == 1 and config.share == "chosen" and sizes.functions > 1:
            raise OptionError(
                "share",
                "with k 1, the compatibility of the chosen function is always 1, so the choice is never learned",
                "use `share: all`, as Switch Transformers do, or a larger k",
            )
        self.config = config

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Output:
        logit_BUV = self.logits(type_BVT, signature_UT)
        open_BUV = logit_BUV >= logit_BUV.topk(self.config.k, dim=1).values[:, -1:] - TIE_TOLERANCE
        probability_BUV = torch.softmax(logit_BUV, dim=1)
        if self.config.share == "all":
            compatibility_BUV = torch.where(open_BUV, probability_BUV, 0)
        else:
            compatibility_BUV = torch.softmax(torch.where(open_BUV, logit_BUV, -torch.inf), dim=1)
        losses: dict[str, Tensor] = {}
        if self.training and self.config.balance:
            losses["balance"] = self.config.balance * balance_loss(probability_BUV, open_BUV, context.present_BV)
        if self.training and self.z:
            losses["router_z"] = self.z * router_z_loss(logit_BUV, context.present_BV)
        return Output(compatibility_BUV, losses)
