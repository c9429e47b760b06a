"""Messages that are made of a few entries."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ni_discrete_types.wrappers import AroundCodebook, CodebookOptions
from ni_framework.contracts import Answer, Body, Build, Choice, Pairs, Sizes
from ni_framework.nn.straight_through import straight_through
from ni_framework.options import component, config


class DiscreteMessages(AroundCodebook, Body):
    """Another body, whose changes are made of entries: x + q(y - x), [B, V, D] -> [R, D].

    What a function changes of an element, y - x, is its message to the state that all functions share. It is cut in G
    segments, each replaced by the nearest of L entries. Gradients pass as if nothing was replaced, and the loss
    "message_commitment" draws the segments to their entries: weight * 1/G sum_g |s_g - e_g|^2. Source: Liu et al.,
    "Discrete-valued neural communication", 2021. A message counts as much as it is pooled, by its compatibility, in the loss
    (where that is no way to learn compatibilities) and for the codebook, so that closed pairs and masked elements do not.
    """

    api = 1

    @config
    class Config(CodebookOptions):
        inner: Choice = component("body", default="lines_of_code", help="the body whose changes are discretised")

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__(config, sizes.width, "messages", "model.width")
        self.inner = build("body", config.inner, sizes, build)

    def prepare(self, code_UC: Tensor, num_elements: int) -> Any:
        return self.inner.prepare(code_UC, num_elements)

    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Answer:
        answer = Answer.of(self.inner(x_BVD, prepared, pairs))
        x_RD, c_R1 = pairs.share(x_BVD), pairs.compatibility.detach()
        message_RD = (answer.result - x_RD).expand(*c_R1.shape[:-1], -1)  # a body may answer all functions alike, once
        replaced = self.codebook(message_RD)
        y_RD = x_RD + straight_through(replaced.vector, replaced.segment_XGS.flatten(-2))
        gap_BX, weight_BX = (pairs.place(of_R1).flatten(1) for of_R1 in (replaced.gap_X.unsqueeze(-1), c_R1))
        statistics = self.codebook.statistics(replaced, c_R1.squeeze(-1))
        return self.told(answer, y_RD, "message_commitment", gap_BX, weight_BX, statistics)
