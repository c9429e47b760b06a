"""Routers with the truncated kernel of the paper between types and signatures."""

from __future__ import annotations

import math
from abc import ABC

import torch
from torch import Tensor, nn

from ni_framework.contracts import ComponentFactory, Context, Router, Sizes
from ni_framework.nn.kernel import cosine_distance, normalise_kernel, truncated_kernel
from ni_framework.nn.straight_through import straight_through
from ni_framework.options import config, option


@config
class KernelOptions:
    """The options that all kernel routers have."""

    truncation: float = option(
        default=1.42, gt=0, le=2, help="distance (1 - cosine, 0 to 2) below which a pair is open"
    )
    bandwidth: float = option(
        default=1.0, gt=0, help="initial sigma: the larger, the slower compatibility falls with distance"
    )
    learn_bandwidth: bool = option(default=True, help="whether sigma is trained")


class KernelRouter(Router, ABC):
    """Base of the routers with a kernel. The parameter is log sigma, so that sigma stays positive; the author trains sigma."""

    Config = KernelOptions

    def __init__(self, config: KernelOptions, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.config = config
        self.log_bandwidth = nn.Parameter(torch.empty(()), requires_grad=config.learn_bandwidth)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_bandwidth, math.log(self.config.bandwidth))

    def kernel(self, type_BVT: Tensor, signature_UT: Tensor) -> Tensor:
        """Returns kernel values k_ui, [B, U, V]; they are 0 where the distance is at least the truncation."""
        return truncated_kernel(
            cosine_distance(type_BVT, signature_UT), self.log_bandwidth.exp(), self.config.truncation
        )


class NormalisedKernel(KernelRouter):
    """c_ui = k_ui / (eps + sum_u k_ui), k_ui = exp(-d_ui / sigma) where d_ui < truncation: types and signatures -> [B, U, V].

    Source: Neural Interpreters, equation 2.
    """

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        return normalise_kernel(self.kernel(type_BVT, signature_UT))


class UnnormalisedKernel(KernelRouter):
    """c_ui = k_ui, independently for each function: -> [B, U, V]; the sum over functions is not limited.

    Source: the author's code with `normalize_function_variable_affinities` off. The changes of all open functions are added to
    the state of an element, so use few functions or a small truncation.
    """

    normalised = False

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        return self.kernel(type_BVT, signature_UT)


class StraightThroughKernel(KernelRouter):
    """The compatibilities of `kernel`, with the gradient of the kernel without truncation: -> [B, U, V].

    Closed pairs receive gradients too, and may open. The gradient passes through the normaliser if another function is open,
    and through the output of the function, unless that vanishes with c as under the residual `modulated`. Source: the author's
    straight-through truncation, which is applied to the kernel: there the gradient explodes for elements that no function
    takes. Here it is applied to the normalised compatibility, where the gradient is bounded.
    """

    straight_through = True

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        distance_BUV = cosine_distance(type_BVT, signature_UT)
        soft_BUV = torch.exp(-distance_BUV / self.log_bandwidth.exp())
        hard_BUV = torch.where(distance_BUV < self.config.truncation, soft_BUV, 0)
        return straight_through(normalise_kernel(hard_BUV), normalise_kernel(soft_BUV))
