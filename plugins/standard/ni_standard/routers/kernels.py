"""Routers with the paper's truncated kernel between types and signatures."""

from __future__ import annotations

import math
from abc import ABC

import torch
from torch import Tensor, nn

from ni_framework.contracts import Build, Context, Router, Sizes
from ni_framework.nn.kernel import distance, normalised, truncated_kernel
from ni_framework.nn.straight_through import straight_through
from ni_framework.options import config, option


@config
class KernelOptions:
    """What every kernel has."""

    truncation: float = option(
        default=1.42, gt=0, le=2, help="distance (1 - cosine, 0 to 2) below which a pair is open"
    )
    bandwidth: float = option(
        default=1.0, gt=0, help="sigma at the start: how slowly compatibility falls with distance"
    )
    learn_bandwidth: bool = option(default=True, help="whether sigma is trained")


class KernelRouter(Router, ABC):
    """Base of the routers with a kernel: log sigma is the parameter, where the author trains sigma, so that it stays positive."""

    Config = KernelOptions

    def __init__(self, config: KernelOptions, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.config = config
        self.log_bandwidth = nn.Parameter(torch.empty(()), requires_grad=config.learn_bandwidth)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_bandwidth, math.log(self.config.bandwidth))

    def kernel(self, type_BVT: Tensor, signature_UT: Tensor) -> Tensor:
        """Kernel values k_ui, [B, U, V]: 0 at the truncation and beyond."""
        return truncated_kernel(distance(type_BVT, signature_UT), self.log_bandwidth.exp(), self.config.truncation)


class Kernel(KernelRouter):
    """c_ui = k_ui / (eps + sum_u k_ui), k_ui = exp(-d_ui / sigma) where d_ui < truncation: types and signatures -> [B, U, V].

    Source: Neural Interpreters, equation 2.
    """

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        return normalised(self.kernel(type_BVT, signature_UT))


class UnnormalisedKernel(KernelRouter):
    """c_ui = k_ui, each function for itself: -> [B, U, V], of any sum over functions.

    Source: the author's code with `normalize_function_variable_affinities` off. Where many functions are open the state of
    an element moves by as many changes, so that few functions or a small truncation are advisable.
    """

    normalised = False

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        return self.kernel(type_BVT, signature_UT)


class StraightThroughKernel(KernelRouter):
    """The compatibilities of `kernel`, with the gradient of the kernel that is not truncated: -> [B, U, V].

    Closed pairs learn too, and may open: by the normaliser, wherever some function is open, and by what the function would do,
    unless that vanishes with c as under the residual `modulated`. Source: the author's straight-through truncation, taken on
    the kernel: there the gradient explodes on elements that no function takes; on the normalised compatibility it is bounded.
    """

    gradient_through_closed = True

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        distance_BUV = distance(type_BVT, signature_UT)
        soft_BUV = torch.exp(-distance_BUV / self.log_bandwidth.exp())
        hard_BUV = torch.where(distance_BUV < self.config.truncation, soft_BUV, 0)
        return straight_through(normalised(hard_BUV), normalised(soft_BUV))
