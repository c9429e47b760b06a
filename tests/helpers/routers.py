"""Builds routers for tests from recipe texts, and calls them with random unit types and signatures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ni_framework.contracts import Context, Router
from ni_framework.model.noise import KeyedNoise
from ni_framework.model.script import Script
from ni_framework.nn.kernel import to_unit_length
from ni_framework.nn.random import rng_keys
from tests.helpers.models import build_with_tasks, first_script, load_base_recipe

B, U, V, T = 3, 4, 7, 6


def build_script_with_router(router: str, *overrides: str) -> Script:
    """Builds the script of the base recipe with a router such as `{use: kernel, truncation: 0.9}`, in float64."""
    return first_script(build_with_tasks(load_base_recipe(f"model.router={router}", *overrides)).double())


def build_router(text: str) -> Router:
    return build_script_with_router(text).router


def random_types_and_signatures(seed: int = 0, batch: int = B) -> tuple[Tensor, Tensor]:
    """Returns random unit types [B, V, T] and signatures [U, T]."""
    generator = torch.Generator().manual_seed(seed)
    return (
        to_unit_length(torch.randn(batch, V, T, generator=generator, dtype=torch.float64)),
        to_unit_length(torch.randn(U, T, generator=generator, dtype=torch.float64)),
    )


def make_context(
    iteration: int = 0, script: int = 0, batch: int = B, seed: int = 0, present: Tensor | None = None
) -> Context:
    """Returns the context of a call; its noise depends on all arguments except `present`."""
    return Context(iteration, present, KeyedNoise(rng_keys(seed, torch.arange(batch)), script, iteration))


def route(router: Router, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
    """Calls a router and returns the compatibilities alone."""
    output: Any = router(type_BVT, signature_UT, context)
    return output.value if hasattr(output, "value") else output
