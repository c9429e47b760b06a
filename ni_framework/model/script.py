"""A script: one iteration, repeated with the same weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ni_framework import recipe as recipes
from ni_framework.contracts import Build, Sizes, with_losses
from ni_framework.nn.dense import DensePairs
from ni_framework.nn.kernel import unit
from ni_framework.nn.packed import PackedPairs


class Passage(NamedTuple):
    """What one forward of a script leaves: its final state, its auxiliary losses, and what it did on the way if traced."""

    output_BVD: Tensor
    losses: dict[str, Tensor]
    compatibility: list[Tensor]  # [B, U, V] of each iteration
    state: list[Tensor]  # [B, V, D] after each iteration


class Script(nn.Module):
    """Type inference, router and interpreter, repeated `iterations` times: [B, V, D] -> [B, V, D].

        x_i <- x_i + sum_u c_ui (y_ui - x_i)      pooling "delta", the default
        x_i <- sum_u c_ui y_ui                    pooling "sum", the author's code

    Both are equal where some function is open (up to the eps in c); where none is, delta leaves the element as it is and
    sum makes it zero for ever. Source: Neural Interpreters, section 3.2.

    The loop stands in `forward`, and nothing above calls an iteration: sharded training gathers the weights once per
    script, whatever the number of iterations, which can be changed at any time.
    """

    def __init__(self, script: recipes.Script, width: int, grid: tuple[int, int] | None, build: Build) -> None:
        super().__init__()
        sizes = Sizes(width, script.functions, script.code, script.type, grid)
        self.iterations = script.iterations
        self.pooling = script.pooling
        self.signature = nn.Parameter(torch.empty(script.functions, script.type), script.signatures == "learned")
        self.code = nn.Parameter(torch.empty(script.functions, script.code))
        self.type_inference = build("type_inference", script.type_inference, sizes, build)
        self.router = build("router", script.router, sizes, build)
        self.body = build("body", script.body, sizes, build)
        self.layout = PackedPairs if script.execution == "packed" else DensePairs
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Signatures in all directions alike, codes normal."""
        nn.init.normal_(self.signature)
        nn.init.normal_(self.code)

    def forward(
        self, x_BVD: Tensor, present_BV: Tensor | None = None, multiplicity_V: Tensor | None = None, trace: bool = False
    ) -> Passage:
        """Runs all iterations. Elements where `present_BV` is False are masked: no function takes them, nobody sees them.

        `multiplicity_V` says how many equal elements each element stands for.
        """
        signature_UT = unit(self.signature.to(torch.promote_types(self.signature.dtype, torch.float32)))
        prepared = self.body.prepare(self.code, x_BVD.shape[1])
        passage = Passage(x_BVD, {}, [], [])
        losses: dict[str, list[Tensor]] = {}
        for _ in range(self.iterations):
            (compatibility_BUV, found) = self._route(x_BVD, signature_UT, present_BV)
            pairs = self.layout(compatibility_BUV, multiplicity_V)
            y_RD, of_body = with_losses(self.body(x_BVD, prepared, pairs))
            pooled_BVD = pairs.pool(y_RD)
            if self.pooling == "delta":
                # (1 - sum_u c_ui) x_i + sum_u c_ui y_ui, which forms no difference per function.
                pooled_BVD = torch.addcmul(pooled_BVD, 1 - compatibility_BUV.sum(dim=1).unsqueeze(-1), x_BVD)
            x_BVD = pooled_BVD
            for name, loss in _together(found, of_body).items():
                losses.setdefault(name, []).append(loss)
            if trace:
                passage.compatibility.append(compatibility_BUV)
                passage.state.append(x_BVD)
        means = {name: torch.stack(values).mean() for name, values in losses.items()}
        return passage._replace(output_BVD=x_BVD, losses=means)

    def _route(
        self, x_BVD: Tensor, signature_UT: Tensor, present_BV: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compatibilities [B, U, V], in full precision: which pairs are open must not hang on a rounding."""
        type_BVT, of_types = with_losses(self.type_inference(x_BVD))
        with torch.autocast(x_BVD.device.type, enabled=False):
            type_BVT = unit(type_BVT.to(signature_UT.dtype))
            compatibility_BUV, of_router = with_losses(self.router(type_BVT, signature_UT, present_BV))
            if present_BV is not None:
                compatibility_BUV = torch.where(present_BV.unsqueeze(1), compatibility_BUV, 0)
        return compatibility_BUV, _together(of_types, of_router)


def _together(*parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses by name; those of the same name are added, so that none is lost."""
    losses: dict[str, Tensor] = {}
    for part in parts:
        for name, loss in part.items():
            losses[name] = losses.get(name, 0) + loss
    return losses
