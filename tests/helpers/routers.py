"""Routers to test on: built from a recipe's text, called on random unit types and signatures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ni_framework.contracts import Context, Router
from ni_framework.model.noise import KeyedNoise
from ni_framework.model.script import Script
from ni_framework.nn.kernel import unit
from ni_framework.nn.random import keys
from tests.helpers.models import build, recipe_of, script_of

B, U, V, T = 3, 4, 7, 6


def script_with(router: str, *overrides: str) -> Script:
    """The base recipe's script with a router such as `{use: kernel, truncation: 0.9}`, in float64."""
    return script_of(build(recipe_of(f"model.router={router}", *overrides)).double())


def router_of(text: str) -> Router:
    return script_with(text).router


def types_and_signatures(seed: int = 0, batch: int = B) -> tuple[Tensor, Tensor]:
    """[B, V, T] and [U, T], of length one."""
    generator = torch.Generator().manual_seed(seed)
    return (
        unit(torch.randn(batch, V, T, generator=generator, dtype=torch.float64)),
        unit(torch.randn(U, T, generator=generator, dtype=torch.float64)),
    )


def context(
    iteration: int = 0, script: int = 0, batch: int = B, seed: int = 0, present: Tensor | None = None
) -> Context:
    """Where a router is called; noise depends on all of it."""
    return Context(iteration, present, KeyedNoise(keys(seed, torch.arange(batch)), script, iteration))


def compatibility(router: Router, type_BVT: Tensor, signature_UT: Tensor, at: Context) -> Tensor:
    """What a router answers, without what it tells beside."""
    answer: Any = router(type_BVT, signature_UT, at)
    return answer.result if hasattr(answer, "result") else answer
