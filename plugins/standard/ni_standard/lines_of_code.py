"""The paper's body: lines of code, each attention and an MLP whose linear maps are modulated by the function's code."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Body, Build, Choice, Pairs, Sizes
from ni_framework.errors import OptionError
from ni_framework.nn.mod_attention import AttentionMaps, mod_attention
from ni_framework.nn.mod_mlp import rest_of_line
from ni_framework.nn.relative_positions import RelativePositions
from ni_framework.options import component, config, option
from ni_standard.absolute_positions import Positions
from ni_standard.linear import ModLin

GAIN = 2.5  # of the gating residual: keeps the size of a state at the start; the author's constant


class LinesOfCode(Body):
    """n_l lines of code with the same codes and the same compatibility: [B, V, D] -> [R, D].

    A line is attention, then an MLP, with o and f what they answer and x what they change:

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
            help="how a line adds to its input: in parts of the compatibility c, gated by it, or whole",
        )
        positions: Literal["none", "shared", "dot", "sep_sum", "seq_sum", "absolute"] = option(
            default="none",
            help="how attention knows the places of patches: relative, the same for all functions (shared) or not (dot, "
            "sep_sum, seq_sum), or a learned vector a place, added before every line (absolute)",
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
        self.positions = None
        if config.positions == "absolute":
            assert sizes.grid is not None
            self.positions = Positions(math.prod(sizes.grid), sizes.width)

    def prepare(self, code_UC: Tensor, num_elements: int) -> _Prepared:
        lines = [line.prepare(code_UC, num_elements) for line in self.lines]  # pyright: ignore[reportCallIssue]
        if self.positions is None:
            return _Prepared(lines, None)
        table_ND = self.positions.table
        return _Prepared(lines, F.pad(table_ND, (0, 0, num_elements - len(table_ND), 0)))

    def forward(self, x_BVD: Tensor, prepared: _Prepared, pairs: Pairs) -> Tensor:
        x_RD = pairs.share(x_BVD)
        place_RD = None if prepared.place_VD is None else pairs.share(prepared.place_VD.expand_as(x_BVD))
        for line, of_line in zip(self.lines, prepared.lines, strict=True):
            x_RD = line(x_RD, place_RD, of_line, pairs)
        return x_RD


class _Prepared(NamedTuple):
    """What a forward's lines of code need of codes and places."""

    lines: list[dict[str, Any]]
    place_VD: Tensor | None


class LineOfCode(nn.Module):
    """a = x + c ModAttention(LN(x)), y = a + c ModMLP(LN(a)): [R, D] -> [R, D], pre-norm; other residuals in `LinesOfCode`.

    Source: Neural Interpreters, equations 6 and 7.
    """

    def __init__(self, config: LinesOfCode.Config, sizes: Sizes, build: Build) -> None:
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
            assert sizes.grid is not None  # refused by LinesOfCode
            self.positions = RelativePositions(sizes.grid, config.heads, config.key, code, config.positions)

    def prepare(self, code_UC: Tensor, num_elements: int) -> dict[str, Any]:
        prepared = {name: linear.prepare(code_UC) for name, linear in self.maps.items()}  # pyright: ignore[reportCallIssue]
        if self._fuses():
            prepared["attention"] = AttentionMaps(prepared["query"], prepared["key"], prepared["value"], self.heads)
        prepared["position"] = None if self.positions is None else self.positions(code_UC, num_elements)
        return prepared

    def forward(self, x_RD: Tensor, place_RD: Tensor | None, prepared: dict[str, Any], pairs: Pairs) -> Tensor:
        def linear(name: str, rows: Tensor) -> Tensor:
            return self.maps[name](rows, prepared[name], pairs)

        z_RD = self.attention_norm(x_RD if place_RD is None else x_RD + place_RD)
        fused = "attention" in prepared
        if fused:
            attended_RD = mod_attention(z_RD, prepared["attention"], prepared["position"], pairs)
        else:
            query_RHK, key_RHK, value_RHE = (
                linear(name, z_RD).unflatten(-1, (self.heads, -1)) for name in ("query", "key", "value")
            )
            attended_RD = pairs.attend(query_RHK, key_RHK, value_RHE, prepared["position"]).flatten(-2)
        if fused and self.residual == "modulated":
            maps = prepared["out"], prepared["mlp_in"], prepared["mlp_out"]
            return rest_of_line(x_RD, attended_RD, self.mlp_norm, maps, pairs)
        c_R1 = pairs.compatibility
        a_RD = self._after_attention(x_RD, linear("out", attended_RD), c_R1)
        f_RD = linear("mlp_out", F.gelu(linear("mlp_in", self.mlp_norm(a_RD))))
        if self.residual == "gating":
            return torch.addcmul((1 - c_R1) * a_RD, GAIN * c_R1.square(), f_RD)
        return torch.addcmul(a_RD, c_R1, f_RD)

    def _fuses(self) -> bool:
        """Whether what `nn` has in one piece may stand in for the modules: nobody changed them, nobody listens to them."""
        maps, norm = list(self.maps.values()), self.mlp_norm
        known = (
            all(type(linear) is ModLin for linear in maps) and type(norm) is nn.LayerNorm and norm.elementwise_affine
        )
        return known and not any(
            part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in [*maps, norm]
        )

    def _after_attention(self, x_RD: Tensor, o_RD: Tensor, c_R1: Tensor) -> Tensor:
        match self.residual:
            case "vanilla":
                return x_RD + o_RD
            case "gating":
                return torch.addcmul((1 - c_R1) * x_RD, GAIN * c_R1, o_RD)
            case _:
                return torch.addcmul(x_RD, c_R1, o_RD)


def _divisor(width: int, heads: int) -> int:
    """The largest number of heads below the one asked for that divides the width."""
    return max(number for number in range(1, min(heads, width) + 1) if width % number == 0)
