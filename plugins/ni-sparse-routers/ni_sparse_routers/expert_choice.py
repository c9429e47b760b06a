"""A router in which each function chooses the nearest elements."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.contracts import ComponentFactory, Context, Output, Sizes
from ni_framework.errors import OptionError
from ni_framework.options import config, option
from ni_sparse_routers.affinity import TIE_TOLERANCE, AffinityOptions, AffinityRouter
from ni_sparse_routers.losses import router_z_loss


class ExpertChoice(AffinityRouter):
    """A function takes the ceil(capacity * V / U) elements of each sample with the largest probabilities: -> [B, U, V].

    c_ui = softmax_u(s_u . t_i / sigma) where u takes i, else 0. Several functions may take an element, with a sum of at most 1,
    or none, and then the element keeps its state. CLS elements compete like all others. All functions are used equally by
    design, so there is no loss "balance"; "router_z" (see `losses`) remains. Source: Zhou et al., "Mixture-of-experts with expert
    choice routing", 2022. There functions choose among the elements of a whole batch; here they choose within each sample, so
    that the result for a sample does not depend on the batch. V counts the elements that are present. Elements with the same
    probability as the last one that is taken are taken too, so that the order of elements does not matter.
    """

    @config
    class Config(AffinityOptions):
        capacity: float = option(
            default=2.0,
            gt=0,
            help="number of functions that take an element on average, at most the number of functions",
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__(config, sizes, build)
        if config.capacity > sizes.functions:
            raise OptionError(
                "capacity",
                f"{sizes.functions} functions cannot take each element {config.capacity:g} times",
                f"choose at most {sizes.functions}, at which every function takes every element",
            )
        self.capacity = config.capacity

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Output:
        logit_BUV = self.logits(type_BVT, signature_UT)
        probability_BUV = torch.softmax(logit_BUV, dim=1)
        num_functions, present_BV = len(signature_UT), context.present_BV
        if present_BV is None:
            present_BV = type_BVT.new_ones(type_BVT.shape[:2], dtype=torch.bool)
        # In float64, because rounding must not raise a quotient of integers to the next integer.
        quota_B = (self.capacity * present_BV.sum(dim=1).double() / num_functions).ceil().long().clamp_min(1)
        # Masked elements come last in the order.
        score_BUV = torch.where(present_BV.unsqueeze(1), probability_BUV.detach(), -1)
        last_BU1 = (quota_B - 1).view(-1, 1, 1).expand(-1, num_functions, 1)
        threshold_BU1 = score_BUV.sort(dim=-1, descending=True).values.gather(-1, last_BU1)
        open_BUV = (score_BUV >= threshold_BU1 - TIE_TOLERANCE) & present_BV.unsqueeze(1)
        losses: dict[str, Tensor] = {}
        if self.training and self.z:
            losses["router_z"] = self.z * router_z_loss(logit_BUV, context.present_BV)
        return Output(torch.where(open_BUV, probability_BUV, 0), losses)
