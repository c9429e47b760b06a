"""A type inference wrapper that replaces types by entries of a codebook."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_discrete_types.wrappers import CodebookOptions, CodebookWrapper
from ni_framework.contracts import ComponentFactory, ComponentSpec, Context, Output, Sizes, TypeInference
from ni_framework.nn.kernel import to_unit_length
from ni_framework.nn.straight_through import straight_through
from ni_framework.options import component_option, config


class Discrete(CodebookWrapper, TypeInference):
    """Another type inference, whose types are split into G segments, each replaced by the nearest of L entries: -> [B, V, T].

    So there are L^G different types. Gradients pass as if nothing was replaced. The loss "type_commitment" pulls the segments to
    their entries: weight * 1/G sum_g |s_g - e_g|^2. Source: Liu et al., "Discrete-valued neural communication", 2021. Types
    are scaled to unit length before they are quantised, because otherwise the loss would be lowest for short types. Masked
    elements and elements that have halted count neither in the loss nor for the codebook.
    """

    api = 2

    @config
    class Config(CodebookOptions):
        inner: ComponentSpec = component_option(
            "type_inference", default="mlp", help="the type inference whose types are discretised"
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__(config, sizes.type, "types", "model.type")
        self.inner = build("type_inference", config.inner, sizes, build)

    def forward(self, x_BVD: Tensor, context: Context) -> Output:
        output = Output.wrap(self.inner(x_BVD, context))
        replaced = self.codebook(to_unit_length(output.value))
        type_BVT = straight_through(replaced.vector, replaced.segment_XGS.flatten(-2))
        weight_BV = type_BVT.new_ones(type_BVT.shape[:2])
        if context.present_BV is not None:
            weight_BV = torch.where(context.present_BV, weight_BV, 0)
        statistics = self.codebook.statistics(replaced, weight_BV)
        return self.make_output(output, type_BVT, "type_commitment", replaced.gap_X, weight_BV, statistics)
