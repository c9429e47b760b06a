"""Each element chooses the functions that are nearest to it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ni_framework.contracts import Answer, Build, Context, Sizes
from ni_framework.errors import OptionError
from ni_framework.options import config, option
from ni_sparse_routers.affinity import TIE, AffinityOptions, AffinityRouter
from ni_sparse_routers.losses import balance, router_z


class TopK(AffinityRouter):
    """An element goes to the k functions whose signatures are nearest its type: -> [B, U, V], 0 for all others.

    c_ui = softmax_u(s_u . t_i / sigma) over the k (`share: chosen`, Shazeer et al. 2017, "Outrageously large neural
    networks", equation 3) or over all functions (`share: all`, Fedus et al. 2022, "Switch Transformers", equation 2). Losses
    in training: "balance" and "router_z" (`losses`). Functions as near as the k-th are taken too: no order of functions
    decides, so that equal functions are used equally; elsewhere exactly k are taken. There is no noise on the logits as in the
    former paper, and no capacity as in the latter: no element is dropped.
    """

    @config
    class Config(AffinityOptions):
        k: int = option(default=2, ge=1, help="number of functions that take an element")
        share: Literal["chosen", "all"] = option(
            default="chosen",
            help="chosen: compatibilities sum to 1 over the k; all: to 1 over all functions, of which only the k take part",
        )
        balance: float = option(
            default=0.01,
            ge=0,
            help="weight of the loss `balance`, which evens out the use of functions; 0 leaves it out",
        )

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
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
                "with k 1, the one chosen function takes all of an element, so that the choice is never learned",
                "use `share: all`, as Switch Transformers do, or a larger k",
            )
        self.config = config

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Answer:
        logit_BUV = self.logits(type_BVT, signature_UT)
        opened_BUV = logit_BUV >= logit_BUV.topk(self.config.k, dim=1).values[:, -1:] - TIE
        probability_BUV = torch.softmax(logit_BUV, dim=1)
        if self.config.share == "all":
            compatibility_BUV = torch.where(opened_BUV, probability_BUV, 0)
        else:
            compatibility_BUV = torch.softmax(torch.where(opened_BUV, logit_BUV, -torch.inf), dim=1)
        losses: dict[str, Tensor] = {}
        if self.training and self.config.balance:
            losses["balance"] = self.config.balance * balance(probability_BUV, opened_BUV, context.present_BV)
        if self.training and self.z:
            losses["router_z"] = self.z * router_z(logit_BUV, context.present_BV)
        return Answer(compatibility_BUV, losses)
