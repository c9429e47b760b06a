"""How near functions are to elements, as logits with a learned bandwidth."""

from __future__ import annotations

import math
from abc import ABC

import torch
from torch import Tensor, nn

from ni_framework.contracts import Build, Router, Sizes
from ni_framework.options import config, option

TIE = (
    1e-5  # what differs by less is equal: equal functions and elements may differ by rounding, as products lay them out
)


@config
class AffinityOptions:
    """What every router here has."""

    bandwidth: float = option(
        default=0.25, gt=0, help="sigma at the start, then learned: how slowly affinity falls with distance"
    )
    z: float = option(
        default=0.001, ge=0, help="weight of the loss `router_z`, which keeps logits small; 0 leaves it out"
    )


class AffinityRouter(Router, ABC):
    """Base of the routers here: logits l_ui = s_u . t_i / sigma; log sigma is the parameter, so that sigma stays positive.

    A softmax over functions of these is the paper's kernel exp(-d_ui / sigma), normalised, with no truncation and no eps.
    """

    api = 1
    Config = AffinityOptions
    grows = False  # how many functions an element gets, or elements a function, is fixed

    def __init__(self, config: AffinityOptions, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.bandwidth = config.bandwidth
        self.z = config.z
        self.log_bandwidth = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_bandwidth, math.log(self.bandwidth))

    def logits(self, type_BVT: Tensor, signature_UT: Tensor) -> Tensor:
        """[B, V, T] and [U, T] -> [B, U, V]."""
        return torch.einsum("ut,bvt->buv", signature_UT, type_BVT) / self.log_bandwidth.exp()
