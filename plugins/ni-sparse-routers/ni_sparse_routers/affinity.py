"""The base of the routers: logits of functions and elements, with a learned bandwidth."""

from __future__ import annotations

import math
from abc import ABC

import torch
from torch import Tensor, nn

from ni_framework.contracts import ComponentFactory, Router, Sizes
from ni_framework.options import config, option

# Values that differ by less than this count as equal, because the rounding of equal functions and elements may differ.
TIE_TOLERANCE = 1e-5


@config
class AffinityOptions:
    """The options that both routers have."""

    bandwidth: float = option(
        default=0.25, gt=0, help="initial sigma, which is learned: the larger, the slower affinity falls with distance"
    )
    z: float = option(
        default=0.001, ge=0, help="weight of the loss `router_z`, which keeps logits small; 0 disables it"
    )


class AffinityRouter(Router, ABC):
    """Base of the routers: logits l_ui = s_u . t_i / sigma. The parameter is log sigma, so that sigma stays positive.

    The softmax of the logits over functions is the normalised kernel exp(-d_ui / sigma) of the paper, without truncation and eps.
    """

    api = 2
    Config = AffinityOptions
    # The number of functions per element, or of elements per function, is fixed.
    supports_growth = False

    def __init__(self, config: AffinityOptions, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.bandwidth = config.bandwidth
        self.z = config.z
        self.log_bandwidth = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_bandwidth, math.log(self.bandwidth))

    def logits(self, type_BVT: Tensor, signature_UT: Tensor) -> Tensor:
        """Returns the logits [B, U, V] of types [B, V, T] and signatures [U, T]."""
        return torch.einsum("ut,bvt->buv", signature_UT, type_BVT) / self.log_bandwidth.exp()
