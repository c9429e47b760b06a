"""A body wrapper that replaces the changes of elements by entries of a codebook."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ni_discrete_types.wrappers import CodebookOptions, CodebookWrapper
from ni_framework.contracts import Body, ComponentFactory, ComponentSpec, Output, Pairs, Sizes
from ni_framework.nn.straight_through import straight_through
from ni_framework.options import component_option, config


class DiscreteMessages(CodebookWrapper, Body):
    """Another body whose changes are quantised: x + q(y - x), [B, V, D] -> [R, D].

    The change of an element by a function, y - x, is the function's message to the state that all functions share. It is split
    into G segments, and each is replaced by the nearest of L entries. Gradients pass as if nothing was replaced. The loss
    "message_commitment" pulls the segments to their entries: weight * 1/G sum_g |s_g - e_g|^2. Source: Liu et al.,
    "Discrete-valued neural communication", 2021. In the loss and for the codebook, a message is weighted by its compatibility,
    as when it is combined, so closed pairs and masked elements do not count. No gradient passes through these weights.
    """

    api = 2

    @config
    class Config(CodebookOptions):
        inner: ComponentSpec = component_option(
            "body", default="lines_of_code", help="the body whose changes are discretised"
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__(config, sizes.width, "messages", "model.width")
        self.inner = build("body", config.inner, sizes, build)

    def prepare(self, code_UC: Tensor, num_elements: int) -> Any:
        return self.inner.prepare(code_UC, num_elements)

    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Output:
        output = Output.wrap(self.inner(x_BVD, prepared, pairs))
        x_RD, c_R1 = pairs.dispatch(x_BVD), pairs.compatibility.detach()
        # Expanded, because a body may return one row for all functions.
        message_RD = (output.value - x_RD).expand(*c_R1.shape[:-1], -1)
        replaced = self.codebook(message_RD)
        y_RD = x_RD + straight_through(replaced.vector, replaced.segment_XGS.flatten(-2))
        gap_BX, weight_BX = (pairs.to_dense(value_R1).flatten(1) for value_R1 in (replaced.gap_X.unsqueeze(-1), c_R1))
        statistics = self.codebook.statistics(replaced, c_R1.squeeze(-1))
        return self.make_output(output, y_RD, "message_commitment", gap_BX, weight_BX, statistics)
