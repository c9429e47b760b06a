"""Types and signatures from a codebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ni_framework.contracts import Answer, Build, Choice, Context, Sizes
from ni_framework.options import component, config, option
from ni_standard.routers.codebook import Codebook
from ni_standard.routers.wrappers import AroundRouter


class Quantised(AroundRouter):
    """Another router on quantised types, signatures, or both: [B, V, T] and [U, T] -> [B, U, V].

    Types and signatures share one codebook, as in the author's code, so that both speak of the same few kinds of element.
    The loss "commitment" draws them towards their entries: weight * mean |t - entry|^2. Source: `codebook`, and the
    author's `quantize_variable_types` and `quantize_function_signature`.
    """

    @config
    class Config:
        size: int = option(default=32, ge=2, help="number of entries in the codebook, K")
        what: Literal["types", "signatures", "both"] = option(
            default="both", help="what is replaced by the nearest entry"
        )
        commitment: float = option(
            default=0.25, ge=0, help="weight of the loss that draws types and signatures to their entries"
        )
        decay: float = option(default=0.99, ge=0, lt=1, help="how slowly entries follow, per step")
        inner: Choice = component("router", default="kernel", help="the router that works on what is quantised")

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__(config.inner, sizes, build)
        self.config = config
        self.codebook = Codebook(config.size, sizes.type, config.decay)

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Answer:
        told: list[tuple[Tensor, Tensor, Tensor]] = []  # vectors, numbers of their entries, weights
        if self.config.what != "signatures":
            present_BV = context.present_BV
            weight_BV = type_BVT.new_ones(type_BVT.shape[:2]) if present_BV is None else present_BV.to(type_BVT.dtype)
            entry_BVT, number_BV = self.codebook(type_BVT)
            told.append((type_BVT, number_BV, weight_BV))
            type_BVT = entry_BVT
        if self.config.what != "types":
            entry_UT, number_U = self.codebook(signature_UT)
            # Each sample uses each signature, however the batch is divided.
            told.append((signature_UT, number_U, signature_UT.new_full((len(signature_UT),), len(type_BVT))))
            signature_UT = entry_UT
        answer = self.ask(type_BVT, signature_UT, context)
        if not self.training:
            return answer
        losses, statistics = {**answer.losses}, {**answer.statistics}
        for vector, number, weight in told:
            # |t - e|^2 = 2 - 2 t.e of unit vectors
            gap = 2 - 2 * (vector * self.codebook.entry[number]).sum(dim=-1)
            loss = self.config.commitment * (gap * weight).sum() / weight.sum().clamp_min(1)
            losses["commitment"] = losses.get("commitment", 0) + loss
            for name, value in self.codebook.statistics(vector.detach(), number, weight).items():
                name = f"codebook_{name}"
                statistics[name] = statistics.get(name, torch.zeros_like(value)) + value
        return Answer(answer.result, losses, statistics)

    def absorb(self, statistics: Mapping[str, Tensor]) -> None:
        super().absorb(statistics)
        prefix = "codebook_"
        own = {name.removeprefix(prefix): value for name, value in statistics.items() if name.startswith(prefix)}
        self.codebook.absorb(own)
