"""A router that opens every pair."""

from __future__ import annotations

from torch import Tensor

from ni_framework.contracts import ComponentFactory, Context, NoOptions, Router, Sizes


class AlwaysOpen(Router):
    """Every function takes every element, equally: c_ui = 1 / U, [B, U, V]. With one function, a transformer's router."""

    Config = NoOptions

    def __init__(self, config: NoOptions, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        num_samples, num_elements, _ = type_BVT.shape
        num_functions = len(signature_UT)
        return type_BVT.new_full((num_samples, num_functions, num_elements), 1 / num_functions)
