"""The body without attention: against loops, in both layouts, and compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.model.compose import build_model
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.registry import recipe_in

TEXT = """
ni: 1
model:
  width: 12
  input: {use: patches, image: [1, 8, 8], patch: 4}
  iterations: 1
  functions: 3
  code: 5
  type: 8
  body: {use: apart, lines: 2, hidden: 7}
data: {use: digits}
train: {steps: 1, batch: 2}
"""
B, U, V, D, C = 2, 3, 6, 12, 5


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compatibilities() -> Tensor:
    """Random, some closed; function 1 takes nothing of sample 0."""
    c_BUV = randn(B, U, V, seed=0).abs()
    c_BUV[randn(B, U, V, seed=1) < -0.4] = 0
    c_BUV[0, 1] = 0
    return c_BUV


def body_of(*overrides: str) -> Any:
    return next(iter(build_model(recipe_in(TEXT, overrides)).double().scripts)).body


def pooled(body: Any, layout: Any, x_BVD: Tensor, code_UC: Tensor, c_BUV: Tensor) -> Tensor:
    pairs = layout(c_BUV)
    return pairs.pool(body(x_BVD, body.prepare(code_UC, V), pairs))


def in_loops(body: Any, x_BVD: Tensor, code_UC: Tensor, c_BUV: Tensor) -> Tensor:
    """sum_u c_ui y_ui, a pair at a time."""
    rows = []
    for b in range(B):
        for i in range(V):
            total = torch.zeros(D, dtype=torch.float64)
            for u in range(U):
                y, c = x_BVD[b, i], c_BUV[b, u, i]
                if c == 0:
                    continue
                for line in body.lines:
                    h = F.layer_norm(y, (D,), line.norm.weight, line.norm.bias)
                    for place, linear in enumerate(line.maps):
                        scale = F.layer_norm(linear.code_weight @ code_UC[u], linear.code_weight.shape[:1])
                        h = linear.weight @ (h * scale) + linear.bias
                        h = h if place else F.gelu(h)
                    y = y + c * h
                total = total + c * y
            rows.append(total)
    return torch.stack(rows).unflatten(0, (B, V))


def both(found: Any, expected: Any, body: Any, opened: bool = True) -> None:
    """Values and gradients are equal; those of closed pairs' compatibilities do not count."""
    x_BVD, code_UC = randn(B, V, D, seed=2).requires_grad_(), randn(U, C, seed=3).requires_grad_()
    c_BUV = (compatibilities() if opened else torch.zeros(B, U, V, dtype=torch.float64)).requires_grad_()
    told = []
    for run in (found, expected):
        value = run(x_BVD, code_UC, c_BUV)
        gradients = torch.autograd.grad(
            (value * randn(B, V, D, seed=4)).sum(), [x_BVD, code_UC, c_BUV, *body.parameters()]
        )
        told.append([value, *gradients[:2], gradients[2] * (c_BUV > 0), *gradients[3:]])
    for one, other in zip(*told, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        assert opened or not one.any()


@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_against_loops(layout: Any) -> None:
    body = body_of()
    both(lambda *given: pooled(body, layout, *given), lambda *given: in_loops(body, *given), body)


@pytest.mark.parametrize("linear", ["plain", "gated", "hyper"])
def test_layouts_agree_for_all_maps(linear: str) -> None:
    body = body_of(f"model.body.linear={{use: {linear}}}", "model.body.hidden=null")
    x_BVD, code_UC, c_BUV = randn(B, V, D, seed=2), randn(U, C, seed=3), compatibilities()
    dense, packed = (pooled(body, layout, x_BVD, code_UC, c_BUV) for layout in (DensePairs, PackedPairs))
    torch.testing.assert_close(dense, packed, rtol=1e-9, atol=1e-9)


def test_nothing_open_leaves_nothing() -> None:
    """And gradients of 0, none of which is missing."""
    body = body_of()
    both(lambda *given: pooled(body, DensePairs, *given), lambda *given: pooled(body, PackedPairs, *given), body, False)


def test_it_compiles_in_one_piece() -> None:
    body, x_BVD, code_UC, c_BUV = body_of(), randn(B, V, D, seed=2), randn(U, C, seed=3), compatibilities()
    compiled = torch.compile(pooled, fullgraph=True, backend="eager")
    given = body, DensePairs, x_BVD, code_UC, c_BUV
    torch.testing.assert_close(compiled(*given), pooled(*given))
