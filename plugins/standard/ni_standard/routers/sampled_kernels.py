"""Kernel routers that draw at random which functions take an element."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import ComponentFactory, Context, Sizes
from ni_framework.nn.kernel import cosine_distance, normalise_kernel
from ni_framework.nn.straight_through import straight_through
from ni_framework.options import config, option
from ni_standard.routers.kernels import KernelOptions, KernelRouter

# The distance between two neighbouring uniform numbers.
_UNIFORM_STEP = 2.0**-24


def _clamp_uniform(uniform: Tensor) -> Tensor:
    """Returns numbers strictly between 0 and 1, also after rounding to fp32, because the logarithms at 0 and 1 are infinite."""
    return uniform.clamp(_UNIFORM_STEP / 2, 1 - _UNIFORM_STEP)


class GumbelKernel(KernelRouter):
    """A relaxed draw of one function for each element, with the compatibilities of `kernel` as probabilities: -> [B, U, V].

    c_ui = softmax_u((log k_ui + g_ui) / temperature) over the open functions, g Gumbel noise; with `hard`, 1 for the largest
    and 0 elsewhere, with the gradient of the relaxed draw. Evaluation uses the mean of hard draws, which is what `kernel`
    computes, or a draw. Source: Jang et al. 2017, Maddison et al. 2017. The author's `use_gumbel_along_functions`
    multiplies the draw with the kernel again, draws among closed functions too, and draws in evaluation.
    """

    @config
    class Config(KernelOptions):
        temperature: float = option(default=1.0, gt=0, help="the lower, the closer a draw is to one function")
        hard: bool = option(default=False, help="whether only the drawn function takes an element")
        evaluation: Literal["mean", "sample"] = option(
            default="mean", help="what evaluation uses instead of the draw of training"
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__(config, sizes, build)
        self.draw_options = config
        self.straight_through = config.hard

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        if not self.training and self.draw_options.evaluation == "mean":
            return normalise_kernel(self.kernel(type_BVT, signature_UT))
        distance_BUV = cosine_distance(type_BVT, signature_UT)
        uniform_BUV = context.noise.uniform("gumbel", *distance_BUV.shape[1:]).to(distance_BUV.dtype)
        gumbel_BUV = -torch.log(-torch.log1p(_clamp_uniform(uniform_BUV) - 1))
        opened_BUV = distance_BUV < self.config.truncation
        # log k instead of k, which may underflow.
        logit_BUV = gumbel_BUV - distance_BUV / self.log_bandwidth.exp()
        # An element without an open function gets uniform weights here, which become 0 below.
        logit_BUV = torch.where(opened_BUV, logit_BUV, -1e30) / self.draw_options.temperature
        soft_BUV = torch.where(opened_BUV, torch.softmax(logit_BUV, dim=1), 0)
        if not self.draw_options.hard:
            return soft_BUV
        drawn_BVU = F.one_hot(logit_BUV.argmax(dim=1), logit_BUV.shape[1])
        hard_BUV = torch.where(opened_BUV, drawn_BVU.transpose(1, 2).to(soft_BUV.dtype), 0)
        return straight_through(hard_BUV, soft_BUV)


class StochasticKernel(KernelRouter):
    """Each open pair is drawn independently, with its kernel value as probability, then normalised: -> [B, U, V].

    m_ui = sigmoid((logit k_ui + logit of a uniform number) / temperature), c_ui = m_ui / (eps + sum_u m_ui). Evaluation
    uses a draw, the pairs with k_ui > 1/2, or k_ui, which is the mean of the draws. Source: the relaxed Bernoulli
    distribution, Maddison et al. 2017, and the author's `stochastic_kernel`, which draws in evaluation by default.
    """

    @config
    class Config(KernelOptions):
        temperature: float = option(default=1.0, gt=0, help="the lower, the closer a draw is to open or closed")
        evaluation: Literal["mean", "sample", "threshold"] = option(
            default="mean", help="what evaluation uses instead of the draw of training"
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__(config, sizes, build)
        self.draw_options = config

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        kernel_BUV = self.kernel(type_BVT, signature_UT)
        if self.training or self.draw_options.evaluation == "sample":
            uniform_BUV = context.noise.uniform("open", *kernel_BUV.shape[1:]).to(kernel_BUV.dtype)
            # `eps`, because the logit of a kernel value of 1 is infinite.
            logit_BUV = torch.logit(kernel_BUV, eps=1e-6) + torch.logit(_clamp_uniform(uniform_BUV))
            kernel_BUV = torch.where(kernel_BUV > 0, torch.sigmoid(logit_BUV / self.draw_options.temperature), 0)
        elif self.draw_options.evaluation == "threshold":
            kernel_BUV = torch.where(kernel_BUV > 0.5, kernel_BUV, 0)
        return normalise_kernel(kernel_BUV)
