"""The body without attention: comparison with loops, in both layouts, and compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.model.compose import build_model
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.registry import load_recipe_text

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
    """Returns random compatibilities with closed pairs; function 1 takes no element of sample 0."""
    c_BUV = randn(B, U, V, seed=0).abs()
    c_BUV[randn(B, U, V, seed=1) < -0.4] = 0
    c_BUV[0, 1] = 0
    return c_BUV


def build_body(*overrides: str) -> Any:
    return next(iter(build_model(load_recipe_text(TEXT, overrides)).double().scripts)).body


def run_combined(body: Any, layout: Any, x_BVD: Tensor, code_UC: Tensor, c_BUV: Tensor) -> Tensor:
    pairs = layout(c_BUV)
    return pairs.combine(body(x_BVD, body.prepare(code_UC, V), pairs))


def reference_loop(body: Any, x_BVD: Tensor, code_UC: Tensor, c_BUV: Tensor) -> Tensor:
    """Returns sum_u c_ui y_ui, computed pair by pair."""
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


def assert_same_values_and_gradients(actual: Any, expected: Any, body: Any, has_open_pairs: bool = True) -> None:
    """Checks that values and gradients are equal, except gradients of the compatibilities of closed pairs."""
    x_BVD, code_UC = randn(B, V, D, seed=2).requires_grad_(), randn(U, C, seed=3).requires_grad_()
    c_BUV = (compatibilities() if has_open_pairs else torch.zeros(B, U, V, dtype=torch.float64)).requires_grad_()
    results = []
    for run in (actual, expected):
        value = run(x_BVD, code_UC, c_BUV)
        gradients = torch.autograd.grad(
            (value * randn(B, V, D, seed=4)).sum(), [x_BVD, code_UC, c_BUV, *body.parameters()]
        )
        results.append([value, *gradients[:2], gradients[2] * (c_BUV > 0), *gradients[3:]])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        assert has_open_pairs or not one.any()


@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_against_loops(layout: Any) -> None:
    body = build_body()
    assert_same_values_and_gradients(
        lambda *arguments: run_combined(body, layout, *arguments),
        lambda *arguments: reference_loop(body, *arguments),
        body,
    )


@pytest.mark.parametrize("linear", ["plain", "gated", "hyper"])
def test_layouts_agree_for_all_maps(linear: str) -> None:
    body = build_body(f"model.body.linear={{use: {linear}}}", "model.body.hidden=null")
    x_BVD, code_UC, c_BUV = randn(B, V, D, seed=2), randn(U, C, seed=3), compatibilities()
    dense, packed = (run_combined(body, layout, x_BVD, code_UC, c_BUV) for layout in (DensePairs, PackedPairs))
    torch.testing.assert_close(dense, packed, rtol=1e-9, atol=1e-9)


def test_without_open_pairs() -> None:
    """Values and gradients are 0, and no gradient is missing."""
    body = build_body()
    assert_same_values_and_gradients(
        lambda *arguments: run_combined(body, DensePairs, *arguments),
        lambda *arguments: run_combined(body, PackedPairs, *arguments),
        body,
        False,
    )


def test_compiles_without_graph_breaks() -> None:
    body, x_BVD, code_UC, c_BUV = build_body(), randn(B, V, D, seed=2), randn(U, C, seed=3), compatibilities()
    compiled = torch.compile(run_combined, fullgraph=True, backend="eager")
    arguments = body, DensePairs, x_BVD, code_UC, c_BUV
    torch.testing.assert_close(compiled(*arguments), run_combined(*arguments))
