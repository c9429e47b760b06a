"""The author's type inference, codebook and kernel, which compute how much of an element each function processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.author.kwargs import KernelKwargs, ScriptKwargs
from ni_framework.nn.kernel import cosine_distance, to_unit_length


def build_mlp(in_features: int, hidden: int, out_features: int, depth: int) -> nn.Module:
    """Linear layers with GELU between them; a single layer is not wrapped, so that its name has no number as in the original.

    Args:
        in_features: Width of the input.
        hidden: Width between two layers.
        out_features: Width of the output.
        depth: Number of linear layers.
    """
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(in_features, hidden), nn.GELU()]
        in_features = hidden
    layers.append(nn.Linear(in_features, out_features))
    return nn.Sequential(*layers) if depth > 1 else layers[0]


class AuthorCodebook(nn.Module):
    """Replaces vectors [..., T] by the nearest one of a codebook, with straight-through gradients.

    The codebook is not a parameter, because the author's model never trains it. Source: the author's `VectorQuantizer`.
    """

    codebook: Tensor

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.empty(count, width))

    def forward(self, vector: Tensor) -> Tensor:
        vector, codebook = to_unit_length(vector), to_unit_length(self.codebook)
        nearest = F.embedding((vector @ codebook.T).argmax(dim=-1), codebook)
        return vector + (nearest - vector).detach()


class AuthorTypeInference(nn.Module):
    """[B, V, D] -> types [B, V, T], not normalised to length one. Source: the author's `TypeInference`."""

    def __init__(self, script: ScriptKwargs) -> None:
        super().__init__()
        width, types, pod = script.variable_features, script.type_inference_kwargs, script.function_pod_kwargs
        self.layernorm = nn.LayerNorm(width) if types.use_layernorm else nn.Identity()
        self.body = build_mlp(width, types.capacity or width, script.type_features, types.depth)
        self.quantize = pod.quantize_variable_types
        self.quantizer = None
        if pod.quantize_variable_types or pod.quantize_function_signature:  # Both use the same codebook.
            self.quantizer = AuthorCodebook(script.num_types, script.type_features)

    def forward(self, x_BVD: Tensor) -> Tensor:
        type_BVT = self.body(self.layernorm(x_BVD))
        return self.quantizer(type_BVT) if self.quantizer is not None and self.quantize else type_BVT


class AuthorKernel(nn.Module):
    """Kernel values [B, U, V] of types and signatures. Source: the author's `DotProductKernel`.

    `bandwidth` is sigma itself; nothing keeps it positive. A pair is open up to the truncation: including it in mode "direct",
    excluding it in mode "masked".
    """

    bandwidth: Tensor

    def __init__(self, kernel: KernelKwargs) -> None:
        super().__init__()
        self.kernel = kernel
        self.truncation = math.inf if kernel.truncation is None else kernel.truncation
        if kernel.learnable_bandwidth:
            self.bandwidth = nn.Parameter(torch.empty(()))
        else:
            self.register_buffer("bandwidth", torch.empty(()))

    def forward(self, type_BVT: Tensor, signature_UT: Tensor) -> Tensor:
        distance_BUV = cosine_distance(to_unit_length(type_BVT), to_unit_length(signature_UT))
        scaled_BUV = distance_BUV / self.bandwidth
        if self.kernel.truncation_implementation == "direct":
            # A closed pair has no gradient, with or without straight_through: a defect of the author's code.
            closed_BUV = scaled_BUV > self.truncation / self.bandwidth.detach()
            return torch.exp(-scaled_BUV.masked_fill(closed_BUV, math.inf))
        soft_BUV = torch.exp(-scaled_BUV)
        hard_BUV = soft_BUV * (distance_BUV < self.truncation)
        return soft_BUV + (hard_BUV - soft_BUV).detach() if self.kernel.straight_through else hard_BUV
