"""Each function chooses the elements that it likes most."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.contracts import Answer, Build, Context, Sizes
from ni_framework.errors import OptionError
from ni_framework.options import config, option
from ni_sparse_routers.affinity import TIE, AffinityOptions, AffinityRouter
from ni_sparse_routers.losses import router_z


class ExpertChoice(AffinityRouter):
    """A function takes the ceil(capacity * V / U) elements of each sample that like it most: -> [B, U, V].

    c_ui = softmax_u(s_u . t_i / sigma) where u takes i, else 0: an element may be taken by several functions, in sum at most 1,
    or by none, and then keeps its state. CLS elements compete like all others. All functions are used equally by design, so
    there is no loss for it; "router_z" (`losses`) stays. Source: Zhou et al., "Mixture-of-experts with expert choice routing",
    2022. There functions choose among a whole batch's elements; here within each sample, so that an answer
    does not hang on its neighbours, and V counts the elements that are present. Elements liked as much as the last one taken
    are taken too: no order of elements decides.
    """

    @config
    class Config(AffinityOptions):
        capacity: float = option(
            default=2.0, gt=0, help="number of functions that take an element on average, at most all of them"
        )

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__(config, sizes, build)
        if config.capacity > sizes.functions:
            raise OptionError(
                "capacity",
                f"{sizes.functions} functions cannot take {config.capacity:g} times the elements there are",
                f"choose at most {sizes.functions}, at which every function takes every element",
            )
        self.capacity = config.capacity

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Answer:
        logit_BUV = self.logits(type_BVT, signature_UT)
        probability_BUV = torch.softmax(logit_BUV, dim=1)
        num_functions, present_BV = len(signature_UT), context.present_BV
        if present_BV is None:
            present_BV = type_BVT.new_ones(type_BVT.shape[:2], dtype=torch.bool)
        # In float64, as Python counts: the quotient of two whole numbers must not be rounded up to the next.
        taken_B = (self.capacity * present_BV.sum(dim=1).double() / num_functions).ceil().long().clamp_min(1)
        liking_BUV = torch.where(present_BV.unsqueeze(1), probability_BUV.detach(), -1)  # masked ones come last
        last_BU1 = (taken_B - 1).view(-1, 1, 1).expand(-1, num_functions, 1)
        least_BU1 = liking_BUV.sort(dim=-1, descending=True).values.gather(-1, last_BU1)
        opened_BUV = (liking_BUV >= least_BU1 - TIE) & present_BV.unsqueeze(1)
        losses: dict[str, Tensor] = {}
        if self.training and self.z:
            losses["router_z"] = self.z * router_z(logit_BUV, context.present_BV)
        return Answer(torch.where(opened_BUV, probability_BUV, 0), losses)
