"""The author's type inference, codebook and kernel: how much of an element each function takes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.author import kwargs as given
from ni_framework.nn.kernel import distance, unit


def mlp(in_features: int, hidden: int, out_features: int, depth: int) -> nn.Module:
    """Linear maps with GELU between them; one alone bears its name without a number, as in the author's code."""
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(in_features, hidden), nn.GELU()]
        in_features = hidden
    layers.append(nn.Linear(in_features, out_features))
    return nn.Sequential(*layers) if depth > 1 else layers[0]


class Codebook(nn.Module):
    """Replaces vectors by the nearest of a codebook, [..., T]; gradients pass as if it had not.

    No parameter: the author's codebook never learns. Source: the author's `VectorQuantizer`.
    """

    codebook: Tensor

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.empty(count, width))

    def forward(self, vector: Tensor) -> Tensor:
        vector, codebook = unit(vector), unit(self.codebook)
        nearest = F.embedding((vector @ codebook.T).argmax(dim=-1), codebook)
        return vector + (nearest - vector).detach()


class Types(nn.Module):
    """[B, V, D] -> types [B, V, T], not yet of length one. Source: the author's `TypeInference`."""

    def __init__(self, script: given.Script) -> None:
        super().__init__()
        width, types, pod = script.variable_features, script.type_inference_kwargs, script.function_pod_kwargs
        self.layernorm = nn.LayerNorm(width) if types.use_layernorm else nn.Identity()
        self.body = mlp(width, types.capacity or width, script.type_features, types.depth)
        self.quantize = pod.quantize_variable_types
        self.quantizer = None
        if pod.quantize_variable_types or pod.quantize_function_signature:  # one codebook for both
            self.quantizer = Codebook(script.num_types, script.type_features)

    def forward(self, x_BVD: Tensor) -> Tensor:
        type_BVT = self.body(self.layernorm(x_BVD))
        return self.quantizer(type_BVT) if self.quantizer is not None and self.quantize else type_BVT


class Kernel(nn.Module):
    """Kernel values [B, U, V] of types and signatures. Source: the author's `DotProductKernel`.

    `bandwidth` is sigma itself, which nothing keeps positive. A pair is open up to and at the truncation when
    "direct", and only below it when "masked".
    """

    bandwidth: Tensor

    def __init__(self, kernel: given.Kernel) -> None:
        super().__init__()
        self.kernel = kernel
        self.truncation = math.inf if kernel.truncation is None else kernel.truncation
        if kernel.learnable_bandwidth:
            self.bandwidth = nn.Parameter(torch.empty(()))
        else:
            self.register_buffer("bandwidth", torch.empty(()))

    def forward(self, type_BVT: Tensor, signature_UT: Tensor) -> Tensor:
        distance_BUV = distance(unit(type_BVT), unit(signature_UT))
        scaled_BUV = distance_BUV / self.bandwidth
        if self.kernel.truncation_implementation == "direct":
            # No gradient passes a closed pair, with straight_through or without: a defect of the author's code.
            closed_BUV = scaled_BUV > self.truncation / self.bandwidth.detach()
            return torch.exp(-scaled_BUV.masked_fill(closed_BUV, math.inf))
        soft_BUV = torch.exp(-scaled_BUV)
        hard_BUV = soft_BUV * (distance_BUV < self.truncation)
        return soft_BUV + (hard_BUV - soft_BUV).detach() if self.kernel.straight_through else hard_BUV
