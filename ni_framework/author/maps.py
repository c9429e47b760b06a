"""The author's four kinds of linear map that depend on a function's code; tensors have the author's names.

Each has a `prepare`, which runs once per forward pass of a script and only reads the codes, and a `forward` on rows,
[R, in] -> [R, out]. `active` adds a GELU where the author's class applies its activation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Pairs
from ni_framework.nn.modlin import ModulatedMap, Modulation, code_scale


class CodedMap(nn.Module, ABC):
    """A linear map of rows that depends on a code."""

    @abstractmethod
    def __init__(self, in_features: int, out_features: int, code: int, bias: bool, active: bool) -> None:
        super().__init__()
        self.active = active

    @abstractmethod
    def prepare(self, code_UC: Tensor) -> Any: ...

    @abstractmethod
    def forward(self, x_RD: Tensor, prepared: Any, pairs: Pairs) -> Tensor: ...

    def activate(self, value: Tensor) -> Tensor:
        return F.gelu(value) if self.active else value


class ModFC(CodedMap):
    """act(W (x * LN(W_c code)) + b); `scale.weight` is W_c. Source: the author's `ModFC`."""

    def __init__(self, in_features: int, out_features: int, code: int, bias: bool, active: bool) -> None:
        super().__init__(in_features, out_features, code, bias, active)
        self.native_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.native_bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.scale = nn.Linear(code, in_features, bias=False)

    def prepare(self, code_UC: Tensor) -> Modulation:
        return Modulation(ModulatedMap(self.native_weight, code_scale(code_UC, self.scale.weight), self.native_bias))

    def forward(self, x_RD: Tensor, prepared: Modulation, pairs: Pairs) -> Tensor:
        return self.activate(pairs.modulated_linear(x_RD, prepared))


class FC(CodedMap):
    """act(W x + b), the same for all functions. Source: the author's `FC`."""

    def __init__(self, in_features: int, out_features: int, code: int, bias: bool, active: bool) -> None:
        super().__init__(in_features, out_features, code, bias, active)
        self.lin = nn.Linear(in_features, out_features, bias)

    def prepare(self, code_UC: Tensor) -> None:
        return None

    def forward(self, x_RD: Tensor, prepared: None, pairs: Pairs) -> Tensor:
        return self.activate(self.lin(x_RD))


class GModFC(CodedMap):
    """(W x + b) * act(W' code + b'): the activation is on the gate and not on the result. Source: the author's `GModFC`."""

    def __init__(self, in_features: int, out_features: int, code: int, bias: bool, active: bool) -> None:
        super().__init__(in_features, out_features, code, bias, active)
        self.main_lin = nn.Linear(in_features, out_features, bias)
        self.aux_lin = nn.Linear(code, out_features, bias)

    def prepare(self, code_UC: Tensor) -> Tensor:
        return self.activate(self.aux_lin(code_UC))

    def forward(self, x_RD: Tensor, prepared: Tensor, pairs: Pairs) -> Tensor:
        return self.main_lin(x_RD) * pairs.expand(prepared)


class HyperFC(CodedMap):
    """act(W_u x + b_u) with [W_u, b_u] = slow + alpha M(LN(code_u)), M of two layers. Source: the author's `HyperFC`."""

    def __init__(self, in_features: int, out_features: int, code: int, bias: bool, active: bool) -> None:
        super().__init__(in_features, out_features, code, bias, active)
        self.shape = (out_features, in_features)
        count = out_features * in_features + (out_features if bias else 0)
        self.slow_params = nn.Parameter(torch.empty(count))
        self.mixing_alpha = nn.Parameter(torch.empty(()))
        self.context_pre_layernorm = nn.LayerNorm(code)
        self.hyper_net = nn.Sequential(
            nn.Linear(code, in_features), nn.GELU(), nn.Linear(in_features, count, bias=False)
        )

    def prepare(self, code_UC: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [U, E, D] and biases [U, E], or [U, 0] without bias."""
        fast_UP = self.hyper_net(self.context_pre_layernorm(code_UC))
        params_UP = self.slow_params + self.mixing_alpha * fast_UP
        out_features, in_features = self.shape
        split = out_features * in_features
        return params_UP[:, :split].unflatten(1, self.shape), params_UP[:, split:]

    def forward(self, x_RD: Tensor, prepared: tuple[Tensor, Tensor], pairs: Pairs) -> Tensor:
        weight_UED, bias_UE = prepared
        y_RE = pairs.grouped_linear(x_RD, weight_UED)
        return self.activate(y_RE + pairs.expand(bias_UE) if bias_UE.shape[1] else y_RE)


MAPS: dict[str, type[CodedMap]] = {"ModFC": ModFC, "FC": FC, "GModFC": GModFC, "HyperFC": HyperFC}
