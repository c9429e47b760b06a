"""Linear maps inside a body, and how the code of a function changes them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Linear, NoOptions, Pairs
from ni_framework.nn.modlin import ModulatedMap, Modulation, code_scale
from ni_framework.options import config, option


def _init_uniform(*weights: Tensor) -> None:
    """Draws from the uniform distribution over +-1/sqrt(inputs), as `torch.nn.Linear` does."""
    for weight in weights:
        nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)


class ModLin(Linear):
    """W (x * LN(W_c code)) + b: [R, D] -> [R, E]; all functions share the weights and have their own code.

    Source: Neural Interpreters, equation 3.
    """

    def __init__(self, config: NoOptions, in_features: int, out_features: int, code: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.code_weight = nn.Parameter(torch.empty(in_features, code))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _init_uniform(self.weight, self.code_weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def build_modulated_map(self, code_UC: Tensor) -> ModulatedMap:
        """Returns the weight, the input scale of each function, and the bias."""
        return ModulatedMap(self.weight, code_scale(code_UC, self.code_weight), self.bias)

    def prepare(self, code_UC: Tensor) -> Modulation:
        return Modulation(self.build_modulated_map(code_UC))

    def forward(self, x_RD: Tensor, prepared: Modulation, pairs: Pairs) -> Tensor:
        return pairs.modulated_linear(x_RD, prepared)


class Plain(Linear):
    """W x + b, the same for all functions: [R, D] -> [R, E]. Source: the author's `FC`; these are the maps of a transformer."""

    def __init__(self, config: NoOptions, in_features: int, out_features: int, code: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _init_uniform(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def prepare(self, code_UC: Tensor) -> None:
        return None

    def forward(self, x_RD: Tensor, prepared: None, pairs: Pairs) -> Tensor:
        return F.linear(x_RD, self.weight, self.bias)


class Gated(Linear):
    """(W x + b) * (W' code + b'): [R, D] -> [R, E]; the code scales the output, and b' starts at 1.

    Source: the author's `GModFC`, which applies the activation of the MLP to the gate alone, so that the MLP is linear in x.
    Here the body applies it to the product, as it does with all other maps.
    """

    def __init__(self, config: NoOptions, in_features: int, out_features: int, code: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.gate_weight = nn.Parameter(torch.empty(out_features, code))
        self.gate_bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _init_uniform(self.weight, self.gate_weight)
        nn.init.ones_(self.gate_bias)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def prepare(self, code_UC: Tensor) -> Tensor:
        return F.linear(code_UC, self.gate_weight, self.gate_bias)  # [U, E]

    def forward(self, x_RD: Tensor, prepared: Tensor, pairs: Pairs) -> Tensor:
        return F.linear(x_RD, self.weight, self.bias) * pairs.expand(prepared)


class _FunctionWeights(NamedTuple):
    """A weight [U, E, D] and a bias [U, E] for each function."""

    weight_UED: Tensor
    bias_UE: Tensor | None


class Hyper(Linear):
    """W_u x + b_u, with (W_u, b_u) = p + alpha M(LN(code_u)): [R, D] -> [R, E]; alpha starts at 0.

    M is a hypernetwork: Linear(C -> hidden), GELU, Linear(hidden -> all of W and b); LN has an affine map. Source: Ha, Dai, Le,
    "HyperNetworks", 2017, and the author's `HyperFC`. Each map has hidden * D * E parameters, so it is meant for small widths.
    """

    @config
    class Config:
        hidden: int | None = option(
            default=None, ge=1, help="hidden width of the hypernetwork; null takes the number of inputs of the map"
        )

    def __init__(self, config: Config, in_features: int, out_features: int, code: int, bias: bool) -> None:
        super().__init__()
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.mixing = nn.Parameter(torch.empty(()))  # alpha
        hidden, out = config.hidden or in_features, out_features * (in_features + bias)
        self.generator = nn.Sequential(
            nn.LayerNorm(code), nn.Linear(code, hidden), nn.GELU(), nn.Linear(hidden, out, bias=False)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _init_uniform(self.weight)
        nn.init.zeros_(self.mixing)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def prepare(self, code_UC: Tensor) -> _FunctionWeights:
        delta_UX = self.mixing * self.generator(code_UC)
        weight_UX, bias_UE = delta_UX[:, : self.weight.numel()], delta_UX[:, self.weight.numel() :]
        weight_UED = self.weight + weight_UX.unflatten(1, self.weight.shape)
        return _FunctionWeights(weight_UED, None if self.bias is None else self.bias + bias_UE)

    def forward(self, x_RD: Tensor, prepared: _FunctionWeights, pairs: Pairs) -> Tensor:
        y_RE = pairs.grouped_linear(x_RD, prepared.weight_UED)
        return y_RE if prepared.bias_UE is None else y_RE + pairs.expand(prepared.bias_UE)
