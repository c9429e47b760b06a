"""How types and signatures become compatibilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ni_framework.contracts import Build, Router, Sizes
from ni_framework.nn.kernel import distance, normalised, truncated_kernel
from ni_framework.options import config, option


class Kernel(Router):
    """c_ui = k_ui / (eps + sum_u k_ui), k_ui = exp(-d_ui / sigma) where d_ui < truncation: types and signatures -> [B, U, V].

    Source: Neural Interpreters, equation 2. Differs in one thing: log sigma is the parameter, so that sigma stays positive.
    """

    @config
    class Config:
        truncation: float = option(
            default=1.42, gt=0, le=2, help="distance (1 - cosine, 0 to 2) below which a pair is open"
        )
        bandwidth: float = option(
            default=1.0, gt=0, help="sigma at the start: how slowly compatibility falls with distance"
        )
        learn_bandwidth: bool = option(default=True, help="whether sigma is trained")

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.config = config
        self.log_bandwidth = nn.Parameter(torch.empty(()), requires_grad=config.learn_bandwidth)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_bandwidth, math.log(self.config.bandwidth))

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, present_BV: Tensor | None) -> Tensor:
        distance_BUV = distance(type_BVT, signature_UT)
        return normalised(truncated_kernel(distance_BUV, self.log_bandwidth.exp(), self.config.truncation))
