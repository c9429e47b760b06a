"""Discrete messages: against loops and in both layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.contracts import Answer
from ni_framework.model.compose import build_model
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.registry import recipe_in

TEXT = """
ni: 1
model:
  width: 12
  input: {use: patches, image: [1, 8, 8], patch: 4}
  iterations: 2
  functions: 3
  code: 5
  type: 8
  router: {use: kernel, truncation: 1.0, bandwidth: 0.7}
  body: {use: discrete_messages, heads: 3, entries: 9, commitment: 0.2, decay: 0.5, inner: {use: lines_of_code, heads: 2, key: 3}}
data: {use: digits}
train: {steps: 3, batch: 8, log_every: 1}
"""
B, U, V, D = 2, 3, 6, 12


def script_of_model() -> Any:
    return next(iter(build_model(recipe_in(TEXT)).double().train().scripts))


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compatibilities() -> Tensor:
    """Random, some closed; function 1 takes nothing of sample 0."""
    c_BUV = randn(B, U, V, seed=0).abs()
    c_BUV[randn(B, U, V, seed=1) < -0.4] = 0
    c_BUV[0, 1] = 0
    return c_BUV


def told_by(layout: Any, c_BUV: Tensor) -> tuple[Tensor, Answer, list[Tensor]]:
    """Pooled messages, the whole answer, and gradients of both."""
    script = script_of_model()
    body = script.body
    x_BVD, c_BUV = randn(B, V, D, seed=2).requires_grad_(), c_BUV.clone().requires_grad_()
    pairs = layout(c_BUV)
    answer = body(x_BVD, body.prepare(script.embedding()[1], V), pairs)
    pooled_BVD = pairs.pool(answer.result)
    total = (pooled_BVD * randn(B, V, D, seed=4)).sum() + answer.losses["message_commitment"]
    gradients = list(torch.autograd.grad(total, [x_BVD, c_BUV, *body.parameters()]))
    gradients[1] = gradients[1] * (c_BUV > 0)  # a router closes pairs without gradient
    return pooled_BVD, answer, gradients


def test_messages_against_loops() -> None:
    script, c_BUV, x_BVD = script_of_model(), compatibilities(), randn(B, V, D, seed=2)
    body, book = script.body, script.body.codebook
    plain = body.inner(x_BVD, body.prepare(script.embedding()[1], V), DensePairs(c_BUV)).detach()
    pooled_BVD, answer, _ = told_by(DensePairs, c_BUV)
    loss, use_L = 0.0, torch.zeros(9, dtype=torch.float64)
    expected_BVD = torch.zeros_like(x_BVD)
    for b in range(B):
        weights, gaps = 0.0, 0.0
        for u in range(U):
            for i in range(V):
                c, entries = c_BUV[b, u, i], []
                for segment in (plain[u, b, i] - x_BVD[b, i]).chunk(3):
                    squares = (segment - book.entry).square().sum(dim=1)
                    entries.append(book.entry[squares.argmin()])
                    use_L[squares.argmin()] += c
                    gaps += float(c * squares.min()) / 3
                weights += float(c)
                expected_BVD[b, i] += c * (x_BVD[b, i] + torch.cat(entries))
        loss += 0.2 * gaps / weights / B
    torch.testing.assert_close(pooled_BVD, expected_BVD)
    assert float(answer.losses["message_commitment"].detach()) == pytest.approx(loss)
    torch.testing.assert_close(answer.statistics["codebook.use"], use_L)


@pytest.mark.parametrize("opened", ["some", "none"])
def test_layouts_agree(opened: str) -> None:
    """Results, losses, statistics and gradients; with no open pair all of them are 0, and none is missing."""
    c_BUV = compatibilities() if opened == "some" else torch.zeros(B, U, V, dtype=torch.float64)
    dense, packed = told_by(DensePairs, c_BUV), told_by(PackedPairs, c_BUV)
    both = [(dense[0], packed[0]), *zip(dense[2], packed[2], strict=True)]
    assert dense[1].losses.keys() == packed[1].losses.keys() == {"message_commitment"}
    assert dense[1].statistics.keys() == packed[1].statistics.keys()
    both += [(dense[1].losses[name], packed[1].losses[name]) for name in dense[1].losses]
    both += [(dense[1].statistics[name], packed[1].statistics[name]) for name in dense[1].statistics]
    for of_dense, of_packed in both:
        torch.testing.assert_close(of_dense, of_packed, rtol=1e-9, atol=1e-9)
        assert opened == "some" or not of_dense.any()


def test_a_closed_pair_counts_for_nothing() -> None:
    """Not even where it holds no number, as the dense layout may."""
    script, c_BUV, x_BVD = script_of_model(), compatibilities(), randn(B, V, D, seed=2)
    body = script.body
    closed_UBV1 = (c_BUV == 0).transpose(0, 1).unsqueeze(-1)
    rows_RD = randn(U, B, V, D, seed=5)
    told = []
    for value in (0.0, torch.nan):
        body.inner.forward = lambda *_, value=value: torch.where(closed_UBV1, value, rows_RD)
        told.append(body(x_BVD, None, DensePairs(c_BUV)))
    torch.testing.assert_close(*(answer.losses["message_commitment"] for answer in told), rtol=0, atol=0)
    for name, value in told[0].statistics.items():
        torch.testing.assert_close(value, told[1].statistics[name], rtol=0, atol=0)
    assert float(told[0].statistics["codebook.use"].sum()) == pytest.approx(3 * float(c_BUV.sum()))


def test_no_pair_is_closed_to_save_its_commitment() -> None:
    """The loss's weights are compatibilities, and it moves none of them, only what the function answers."""
    body, c_BUV = script_of_model().body, compatibilities().requires_grad_()
    rows_RD = randn(U, B, V, D, seed=5).requires_grad_()
    body.inner.forward = lambda *_: rows_RD
    loss = body(randn(B, V, D, seed=2), None, DensePairs(c_BUV)).losses["message_commitment"]
    to_rows, to_c = torch.autograd.grad(loss, [rows_RD, c_BUV], allow_unused=True)
    assert to_rows.any()
    assert to_c is None
