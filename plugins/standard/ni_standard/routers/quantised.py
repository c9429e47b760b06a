"""A router wrapper that replaces types and signatures by entries of a codebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ni_framework.contracts import ComponentFactory, ComponentSpec, Context, Output, Sizes
from ni_framework.options import component_option, config, option
from ni_standard.routers.codebook import UnitCodebook
from ni_standard.routers.wrappers import RouterWrapper


class Quantised(RouterWrapper):
    """Another router with quantised types, signatures, or both: [B, V, T] and [U, T] -> [B, U, V].

    Types and signatures share one codebook, as in the author's code, so that both use the same few kinds of element.
    The loss "commitment" pulls them towards their entries: weight * mean |t - entry|^2. Source: see `UnitCodebook`, and the
    author's `quantize_variable_types` and `quantize_function_signature`.
    """

    @config
    class Config:
        size: int = option(default=32, ge=2, help="number of entries in the codebook, K")
        what: Literal["types", "signatures", "both"] = option(
            default="both", help="what is replaced by the nearest entry"
        )
        commitment: float = option(
            default=0.25, ge=0, help="weight of the loss that pulls types and signatures to their entries"
        )
        decay: float = option(
            default=0.99,
            ge=0,
            lt=1,
            help="decay of the moving averages per step; the larger, the slower entries follow",
        )
        inner: ComponentSpec = component_option(
            "router", default="kernel", help="the router that reads the quantised types and signatures"
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__(config.inner, sizes, build)
        self.config = config
        self.codebook = UnitCodebook(config.size, sizes.type, config.decay)

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Output:
        # Vectors, the numbers of their entries, and weights.
        replacements: list[tuple[Tensor, Tensor, Tensor]] = []
        if self.config.what != "signatures":
            present_BV = context.present_BV
            weight_BV = type_BVT.new_ones(type_BVT.shape[:2]) if present_BV is None else present_BV.to(type_BVT.dtype)
            entry_BVT, number_BV = self.codebook(type_BVT)
            replacements.append((type_BVT, number_BV, weight_BV))
            type_BVT = entry_BVT
        if self.config.what != "types":
            entry_UT, number_U = self.codebook(signature_UT)
            # A signature counts once for each sample, so that micro-batches add up to the batch.
            replacements.append((signature_UT, number_U, signature_UT.new_full((len(signature_UT),), len(type_BVT))))
            signature_UT = entry_UT
        output = self.call_inner(type_BVT, signature_UT, context)
        if not self.training:
            return output
        losses, statistics = {**output.aux_losses}, {**output.statistics}
        for vector, number, weight in replacements:
            # For unit vectors |t - e|^2 = 2 - 2 t.e.
            gap = 2 - 2 * (vector * self.codebook.entry[number]).sum(dim=-1)
            loss = self.config.commitment * (gap * weight).sum() / weight.sum().clamp_min(1)
            losses["commitment"] = losses.get("commitment", 0) + loss
            for name, value in self.codebook.statistics(vector.detach(), number, weight).items():
                name = f"codebook_{name}"
                statistics[name] = statistics.get(name, torch.zeros_like(value)) + value
        return Output(output.value, losses, statistics)

    def update_buffers(self, statistics: Mapping[str, Tensor]) -> None:
        super().update_buffers(statistics)
        prefix = "codebook_"
        codebook_statistics = {
            name.removeprefix(prefix): value for name, value in statistics.items() if name.startswith(prefix)
        }
        self.codebook.update_buffers(codebook_statistics)
