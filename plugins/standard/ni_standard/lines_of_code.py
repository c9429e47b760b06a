"""The body of the paper: lines of code, each with attention and an MLP whose maps are modulated by the function's code."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Body, ComponentFactory, ComponentSpec, Pairs, Sizes
from ni_framework.errors import OptionError
from ni_framework.nn.mod_attention import AttentionMaps, mod_attention
from ni_framework.nn.mod_mlp import fused_line_tail
from ni_framework.nn.relative_positions import RelativePositions
from ni_framework.options import component_option, config, option
from ni_standard.absolute_positions import AbsolutePositions
from ni_standard.linear import ModLin

# Factor of the gating residual, by which the norm of a state stays about the same at the start; the author's constant.
GATING_GAIN = 2.5


class LinesOfCode(Body):
    """n_l lines of code with the same codes and the same compatibility: [B, V, D] -> [R, D].

    A line is attention, then an MLP. With x the state, o the output of attention and f the output of the MLP:

        residual     after attention           after the MLP
        modulated    a = x + c o               y = a + c f
        gating       a = (1-c) x + 2.5 c o     y = (1-c) a + 2.5 c^2 f
        vanilla      a = x + o                 y = a + c f

    Source: Neural Interpreters, section 3.2 and equations 4 to 7; gating and vanilla: the author's code.
    """

    @config
    class Config:
        lines: int = option(default=1, ge=1, help="number of lines of code in a function")
        heads: int = option(default=4, ge=1, help="attention heads, H")
        key: int = option(default=16, ge=1, help="width of a query and a key in each head, K")
        hidden: int | None = option(
            default=None, ge=1, help="hidden width of the MLP; null takes the width of an element"
        )
        bias: bool = option(default=False, help="whether queries and keys have a bias, as in most transformers")
        residual: Literal["modulated", "gating", "vanilla"] = option(
            default="modulated",
            help="how a line adds to its input: scaled by the compatibility c, gated by it, or unscaled",
        )
        positions: Literal["none", "shared", "dot", "sep_sum", "seq_sum", "absolute"] = option(
            default="none",
            help="how attention receives the positions of patches: relative, the same for all functions (shared) or not (dot, "
            "sep_sum, seq_sum), or a learned vector for each position, added before every line (absolute)",
        )
        linear: ComponentSpec = component_option("linear", default="modlin", help="the linear maps inside")

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        if sizes.width % config.heads:
            raise OptionError(
                "heads",
                f"{config.heads} heads cannot share a width of {sizes.width}",
                f"choose a number of heads that divides model.width, as {_largest_divisor(sizes.width, config.heads)} does",
            )
        if config.positions != "none" and sizes.grid is None:
            raise OptionError("positions", "the input's elements have no positions on a grid", "use `positions: none`")
        self.lines = nn.ModuleList(LineOfCode(config, sizes, build) for _ in range(config.lines))
        self.positions = None
        if config.positions == "absolute":
            assert sizes.grid is not None
            self.positions = AbsolutePositions(math.prod(sizes.grid), sizes.width)

    def prepare(self, code_UC: Tensor, num_elements: int) -> _PreparedLines:
        lines = [line.prepare(code_UC, num_elements) for line in self.lines]  # pyright: ignore[reportCallIssue]
        if self.positions is None:
            return _PreparedLines(lines, None)
        table_ND = self.positions.table
        return _PreparedLines(lines, F.pad(table_ND, (0, 0, num_elements - len(table_ND), 0)))

    def forward(self, x_BVD: Tensor, prepared: _PreparedLines, pairs: Pairs) -> Tensor:
        x_RD = pairs.dispatch(x_BVD)
        position_RD = None if prepared.position_VD is None else pairs.dispatch(prepared.position_VD.expand_as(x_BVD))
        for line, prepared_line in zip(self.lines, prepared.lines, strict=True):
            x_RD = line(x_RD, position_RD, prepared_line, pairs)
        return x_RD


class _PreparedLines(NamedTuple):
    """What the lines of code compute once per forward from the codes and the positions."""

    lines: list[dict[str, Any]]
    position_VD: Tensor | None


class LineOfCode(nn.Module):
    """a = x + c ModAttention(LN(x)), y = a + c ModMLP(LN(a)): [R, D] -> [R, D], pre-norm; see `LinesOfCode` for other residuals.

    Source: Neural Interpreters, equations 6 and 7.
    """

    def __init__(self, config: LinesOfCode.Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        width, code, hidden = sizes.width, sizes.code, config.hidden or sizes.width
        self.heads, self.residual = config.heads, config.residual
        self.attention_norm = nn.LayerNorm(width)
        self.mlp_norm = nn.LayerNorm(width)
        self.maps = nn.ModuleDict(
            {
                "query": build("linear", config.linear, width, config.heads * config.key, code, config.bias),
                "key": build("linear", config.linear, width, config.heads * config.key, code, config.bias),
                "value": build("linear", config.linear, width, width, code, True),
                "out": build("linear", config.linear, width, width, code, True),
                "mlp_in": build("linear", config.linear, width, hidden, code, True),
                "mlp_out": build("linear", config.linear, hidden, width, code, True),
            }
        )
        self.positions = None
        if config.positions not in ("none", "absolute"):
            # `LinesOfCode` raises an error without a grid.
            assert sizes.grid is not None
            self.positions = RelativePositions(sizes.grid, config.heads, config.key, code, config.positions)

    def prepare(self, code_UC: Tensor, num_elements: int) -> dict[str, Any]:
        prepared = {name: linear.prepare(code_UC) for name, linear in self.maps.items()}  # pyright: ignore[reportCallIssue]
        if self._can_fuse():
            prepared["attention"] = AttentionMaps(prepared["query"], prepared["key"], prepared["value"], self.heads)
        prepared["position"] = None if self.positions is None else self.positions(code_UC, num_elements)
        return prepared

    def forward(self, x_RD: Tensor, position_RD: Tensor | None, prepared: dict[str, Any], pairs: Pairs) -> Tensor:
        def linear(name: str, rows: Tensor) -> Tensor:
            return self.maps[name](rows, prepared[name], pairs)

        z_RD = self.attention_norm(x_RD if position_RD is None else x_RD + position_RD)
        fused = "attention" in prepared
        if fused:
            attended_RD = mod_attention(z_RD, prepared["attention"], prepared["position"], pairs)
        else:
            query_RHK, key_RHK, value_RHE = (
                linear(name, z_RD).unflatten(-1, (self.heads, -1)) for name in ("query", "key", "value")
            )
            attended_RD = pairs.attention(query_RHK, key_RHK, value_RHE, prepared["position"]).flatten(-2)
        if fused and self.residual == "modulated":
            maps = prepared["out"], prepared["mlp_in"], prepared["mlp_out"]
            return fused_line_tail(x_RD, attended_RD, self.mlp_norm, maps, pairs)
        c_R1 = pairs.compatibility
        a_RD = self._add_attention(x_RD, linear("out", attended_RD), c_R1)
        f_RD = linear("mlp_out", F.gelu(linear("mlp_in", self.mlp_norm(a_RD))))
        if self.residual == "gating":
            return torch.addcmul((1 - c_R1) * a_RD, GATING_GAIN * c_R1.square(), f_RD)
        return torch.addcmul(a_RD, c_R1, f_RD)

    def _can_fuse(self) -> bool:
        """Returns whether the fused functions of `nn` may replace the modules: all are unmodified and have no hooks."""
        maps, norm = list(self.maps.values()), self.mlp_norm
        is_standard = (
            all(type(linear) is ModLin for linear in maps) and type(norm) is nn.LayerNorm and norm.elementwise_affine
        )
        return is_standard and not any(
            module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in [*maps, norm]
        )

    def _add_attention(self, x_RD: Tensor, o_RD: Tensor, c_R1: Tensor) -> Tensor:
        match self.residual:
            case "vanilla":
                return x_RD + o_RD
            case "gating":
                return torch.addcmul((1 - c_R1) * x_RD, GATING_GAIN * c_R1, o_RD)
            case _:
                return torch.addcmul(x_RD, c_R1, o_RD)


def _largest_divisor(width: int, heads: int) -> int:
    """Returns the largest divisor of the width that is at most the requested number of heads."""
    return max(number for number in range(1, min(heads, width) + 1) if width % number == 0)
