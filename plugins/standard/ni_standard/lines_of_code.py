"""The paper's body: lines of code, each attention and an MLP whose linear maps are modulated by the function's code."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Body, Build, Choice, Pairs, Sizes
from ni_framework.errors import OptionError
from ni_framework.nn.relative_positions import RelativePositions
from ni_framework.options import component, config, option


class LinesOfCode(Body):
    """n_l lines of code with the same codes and the same compatibility: [B, V, D] -> [R, D].

    Source: Neural Interpreters, section 3.2 and equations 4 to 7.
    """

    @config
    class Config:
        lines: int = option(default=1, ge=1, help="number of lines of code in a function")
        heads: int = option(default=4, ge=1, help="attention heads, H")
        key: int = option(default=16, ge=1, help="width of a query and a key in each head, K")
        hidden: int | None = option(
            default=None, ge=1, help="hidden width of the MLP; null takes the width of an element"
        )
        positions: Literal["none", "shared", "dot", "sep_sum", "seq_sum"] = option(
            default="none", help="how attention knows the places of patches; all but shared differ by function"
        )
        linear: Choice = component("linear", default="modlin", help="the linear maps inside")

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__()
        if sizes.width % config.heads:
            raise OptionError(
                "heads",
                f"{config.heads} heads cannot share a width of {sizes.width}",
                f"choose a number of heads that divides model.width, as {_divisor(sizes.width, config.heads)} does",
            )
        if config.positions != "none" and sizes.grid is None:
            raise OptionError("positions", "the input's elements lie on no grid", "use `positions: none`")
        self.lines = nn.ModuleList(LineOfCode(config, sizes, build) for _ in range(config.lines))

    def prepare(self, code_UC: Tensor, num_elements: int) -> list[dict[str, Any]]:
        return [line.prepare(code_UC, num_elements) for line in self.lines]  # pyright: ignore[reportCallIssue]

    def forward(self, x_BVD: Tensor, prepared: list[dict[str, Any]], pairs: Pairs) -> Tensor:
        x_RD = pairs.share(x_BVD)
        for line, of_line in zip(self.lines, prepared, strict=True):
            x_RD = line(x_RD, of_line, pairs)
        return x_RD


class LineOfCode(nn.Module):
    """a = x + c ModAttention(LN(x)), y = a + c ModMLP(LN(a)): [R, D] -> [R, D], pre-norm.

    Source: Neural Interpreters, equations 6 and 7.
    """

    def __init__(self, config: LinesOfCode.Config, sizes: Sizes, build: Build) -> None:
        super().__init__()
        width, code, hidden = sizes.width, sizes.code, config.hidden or sizes.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.mlp_norm = nn.LayerNorm(width)
        self.maps = nn.ModuleDict(
            {
                "query": build("linear", config.linear, width, config.heads * config.key, code, False),
                "key": build("linear", config.linear, width, config.heads * config.key, code, False),
                "value": build("linear", config.linear, width, width, code, True),
                "out": build("linear", config.linear, width, width, code, True),
                "mlp_in": build("linear", config.linear, width, hidden, code, True),
                "mlp_out": build("linear", config.linear, hidden, width, code, True),
            }
        )
        self.positions = None
        if config.positions != "none":
            assert sizes.grid is not None  # refused by LinesOfCode
            self.positions = RelativePositions(
                sizes.grid, config.heads, config.heads * config.key, code, config.positions
            )

    def prepare(self, code_UC: Tensor, num_elements: int) -> dict[str, Any]:
        prepared = {name: linear.prepare(code_UC) for name, linear in self.maps.items()}  # pyright: ignore[reportCallIssue]
        prepared["position"] = None if self.positions is None else self.positions(code_UC, num_elements)
        return prepared

    def forward(self, x_RD: Tensor, prepared: dict[str, Any], pairs: Pairs) -> Tensor:
        def linear(name: str, rows: Tensor) -> Tensor:
            return self.maps[name](rows, prepared[name], pairs)

        z_RD = self.attention_norm(x_RD)
        query_RHK, key_RHK, value_RHE = (
            linear(name, z_RD).unflatten(-1, (self.heads, -1)) for name in ("query", "key", "value")
        )
        attended_RD = pairs.attend(query_RHK, key_RHK, value_RHE, prepared["position"]).flatten(-2)
        a_RD = torch.addcmul(x_RD, pairs.compatibility, linear("out", attended_RD))
        hidden_RE = F.gelu(linear("mlp_in", self.mlp_norm(a_RD)))
        return torch.addcmul(a_RD, pairs.compatibility, linear("mlp_out", hidden_RE))


def _divisor(width: int, heads: int) -> int:
    """The largest number of heads below the one asked for that divides the width."""
    return max(number for number in range(1, min(heads, width) + 1) if width % number == 0)
