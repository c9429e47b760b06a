"""A body without attention, in which elements do not influence each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Body, ComponentFactory, ComponentSpec, Pairs, Sizes
from ni_framework.options import component_option, config, option


class NoAttentionLines(Body):
    """Lines of code without attention, independent for each element: y = x + c MLP(LN(x)) in every line, [B, V, D] -> [R, D].

    The linear maps of the MLP are modulated by the function's code. With a router and a type inference that read
    one element at a time, such as `kernel` and `mlp`, and with the head `additive`, an interpreter is a feature-wise latent
    additive network. Source: Neural Interpreters, equation 7, without the attention before it; Nguyen and Martínez, "It's FLAN
    time!", 2021.
    """

    api = 2

    @config
    class Config:
        lines: int = option(default=1, ge=1, help="number of lines in a function")
        hidden: int | None = option(
            default=None, ge=1, help="hidden width of the MLP; null takes the width of an element"
        )
        linear: ComponentSpec = component_option("linear", default="modlin", help="the linear maps inside")

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.lines = nn.ModuleList(NoAttentionLine(config, sizes, build) for _ in range(config.lines))

    def prepare(self, code_UC: Tensor, num_elements: int) -> list[Any]:
        return [[linear.prepare(code_UC) for linear in line.maps] for line in self.lines]  # pyright: ignore

    def forward(self, x_BVD: Tensor, prepared: list[Any], pairs: Pairs) -> Tensor:
        x_RD = pairs.dispatch(x_BVD)
        for line, prepared_line in zip(self.lines, prepared, strict=True):
            x_RD = line(x_RD, prepared_line, pairs)
        return x_RD


class NoAttentionLine(nn.Module):
    """y = x + c MLP(LN(x)), [R, D] -> [R, D]."""

    def __init__(self, config: NoAttentionLines.Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        hidden = config.hidden or sizes.width
        self.norm = nn.LayerNorm(sizes.width)
        self.maps = nn.ModuleList(
            build("linear", config.linear, *widths, sizes.code, True)
            for widths in ((sizes.width, hidden), (hidden, sizes.width))
        )

    def forward(self, x_RD: Tensor, prepared: list[Any], pairs: Pairs) -> Tensor:
        (first, prepared_first), (second, prepared_second) = zip(self.maps, prepared, strict=True)
        hidden_RE = F.gelu(first(self.norm(x_RD), prepared_first, pairs))
        return torch.addcmul(x_RD, pairs.compatibility, second(hidden_RE, prepared_second, pairs))
