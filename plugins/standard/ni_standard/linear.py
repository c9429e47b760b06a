"""Linear maps inside a body."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Linear, NoOptions, Pairs
from ni_framework.nn.modlin import ModulatedMap, Modulation, scale_of
from ni_framework.options import config, option


def _uniform(*weights: Tensor) -> None:
    """Uniform in +-1/sqrt(inputs), the start of torch's own linear map."""
    for weight in weights:
        nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)


class ModLin(Linear):
    """W (x * LN(W_c code)) + b: [R, D] -> [R, E]; the weights are shared by all functions, the code tells them apart.

    Source: Neural Interpreters, equation 3.
    """

    def __init__(self, config: NoOptions, in_features: int, out_features: int, code: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.code_weight = nn.Parameter(torch.empty(in_features, code))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _uniform(self.weight, self.code_weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def modulated(self, code_UC: Tensor) -> ModulatedMap:
        """What the codes make of it."""
        return ModulatedMap(self.weight, scale_of(code_UC, self.code_weight), self.bias)

    def prepare(self, code_UC: Tensor) -> Modulation:
        return Modulation(self.modulated(code_UC))

    def forward(self, x_RD: Tensor, prepared: Modulation, pairs: Pairs) -> Tensor:
        return pairs.modulate(x_RD, prepared)


class Plain(Linear):
    """W x + b, the same for all functions: [R, D] -> [R, E]. Source: the author's `FC`; a transformer's maps."""

    def __init__(self, config: NoOptions, in_features: int, out_features: int, code: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _uniform(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def prepare(self, code_UC: Tensor) -> None:
        return None

    def forward(self, x_RD: Tensor, prepared: None, pairs: Pairs) -> Tensor:
        return F.linear(x_RD, self.weight, self.bias)


class Gated(Linear):
    """(W x + b) * (W' code + b'): [R, D] -> [R, E]; the code scales what comes out, and b' starts at 1.

    Source: the author's `GModFC`, which lays the MLP's activation on the gate alone and so leaves the MLP linear in x;
    here the body lays it on the product, as with any other map.
    """

    def __init__(self, config: NoOptions, in_features: int, out_features: int, code: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.gate_weight = nn.Parameter(torch.empty(out_features, code))
        self.gate_bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _uniform(self.weight, self.gate_weight)
        nn.init.ones_(self.gate_bias)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def prepare(self, code_UC: Tensor) -> Tensor:
        return F.linear(code_UC, self.gate_weight, self.gate_bias)  # [U, E]

    def forward(self, x_RD: Tensor, prepared: Tensor, pairs: Pairs) -> Tensor:
        return F.linear(x_RD, self.weight, self.bias) * pairs.spread(prepared)


class _Own(NamedTuple):
    """A weight [U, E, D] and a bias [U, E] for each function."""

    weight_UED: Tensor
    bias_UE: Tensor | None


class Hyper(Linear):
    """W_u x + b_u, with (W_u, b_u) = p + alpha M(LN(code_u)): [R, D] -> [R, E]; alpha starts at 0.

    M is a hypernetwork, Linear(C -> hidden), GELU, Linear(hidden -> all of W and b), LN affine. Source: Ha, Dai, Le,
    "HyperNetworks", 2017, and the author's `HyperFC`. It has hidden * D * E parameters a map: meant for small widths.
    """

    @config
    class Config:
        hidden: int | None = option(
            default=None, ge=1, help="hidden width of the hypernetwork; null takes the map's inputs"
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
        _uniform(self.weight)
        nn.init.zeros_(self.mixing)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def prepare(self, code_UC: Tensor) -> _Own:
        own_UX = self.mixing * self.generator(code_UC)
        weight_UX, bias_UE = own_UX[:, : self.weight.numel()], own_UX[:, self.weight.numel() :]
        weight_UED = self.weight + weight_UX.unflatten(1, self.weight.shape)
        return _Own(weight_UED, None if self.bias is None else self.bias + bias_UE)

    def forward(self, x_RD: Tensor, prepared: _Own, pairs: Pairs) -> Tensor:
        y_RE = pairs.multiply(x_RD, prepared.weight_UED)
        return y_RE if prepared.bias_UE is None else y_RE + pairs.spread(prepared.bias_UE)
