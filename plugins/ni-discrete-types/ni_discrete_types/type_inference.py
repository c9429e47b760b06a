"""Types that are made of a few entries."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_discrete_types.wrappers import AroundCodebook, CodebookOptions
from ni_framework.contracts import Answer, Build, Choice, Context, Sizes, TypeInference
from ni_framework.nn.kernel import unit
from ni_framework.nn.straight_through import straight_through
from ni_framework.options import component, config


class Discrete(AroundCodebook, TypeInference):
    """Another type inference, whose types are cut in G segments, each replaced by the nearest of L entries: -> [B, V, T].

    So there are L^G different types. Gradients pass as if nothing was replaced, and the loss "type_commitment" draws the
    segments to their entries: weight * 1/G sum_g |s_g - e_g|^2. Source: Liu et al., "Discrete-valued neural communication",
    2021. We discretise types, which are directions, after they were brought to length one, or the loss would be least where
    all of them are short. Masked elements, and those that have halted, count neither in the loss nor for the codebook.
    """

    api = 1

    @config
    class Config(CodebookOptions):
        inner: Choice = component(
            "type_inference", default="mlp", help="the type inference whose types are discretised"
        )

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__(config, sizes.type, "types", "model.type")
        self.inner = build("type_inference", config.inner, sizes, build)

    def forward(self, x_BVD: Tensor, context: Context) -> Answer:
        answer = Answer.of(self.inner(x_BVD, context))
        replaced = self.codebook(unit(answer.result))
        type_BVT = straight_through(replaced.vector, replaced.segment_XGS.flatten(-2))
        weight_BV = type_BVT.new_ones(type_BVT.shape[:2])
        if context.present_BV is not None:
            weight_BV = torch.where(context.present_BV, weight_BV, 0)
        statistics = self.codebook.statistics(replaced, weight_BV)
        return self.told(answer, type_BVT, "type_commitment", replaced.gap_X, weight_BV, statistics)
