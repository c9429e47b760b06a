"""Discrete messages: comparison with loops, in both layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.contracts import Output
from ni_framework.model.compose import build_model
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.registry import load_recipe_text

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


def build_script() -> Any:
    return next(iter(build_model(load_recipe_text(TEXT)).double().train().scripts))


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compatibilities() -> Tensor:
    """Returns random compatibilities with closed pairs; function 1 takes no element of sample 0."""
    c_BUV = randn(B, U, V, seed=0).abs()
    c_BUV[randn(B, U, V, seed=1) < -0.4] = 0
    c_BUV[0, 1] = 0
    return c_BUV


def run_body(layout: Any, c_BUV: Tensor) -> tuple[Tensor, Output, list[Tensor]]:
    """Returns the combined rows, the output of the body, and the gradients of both."""
    script = build_script()
    body = script.body
    x_BVD, c_BUV = randn(B, V, D, seed=2).requires_grad_(), c_BUV.clone().requires_grad_()
    pairs = layout(c_BUV)
    output = body(x_BVD, body.prepare(script.embedding()[1], V), pairs)
    combined_BVD = pairs.combine(output.value)
    total = (combined_BVD * randn(B, V, D, seed=4)).sum() + output.aux_losses["message_commitment"]
    gradients = list(torch.autograd.grad(total, [x_BVD, c_BUV, *body.parameters()]))
    # Closed pairs pass no gradient to the router.
    gradients[1] = gradients[1] * (c_BUV > 0)
    return combined_BVD, output, gradients


def test_messages_against_loops() -> None:
    script, c_BUV, x_BVD = build_script(), compatibilities(), randn(B, V, D, seed=2)
    body, book = script.body, script.body.codebook
    plain = body.inner(x_BVD, body.prepare(script.embedding()[1], V), DensePairs(c_BUV)).detach()
    combined_BVD, output, _ = run_body(DensePairs, c_BUV)
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
    torch.testing.assert_close(combined_BVD, expected_BVD)
    assert float(output.aux_losses["message_commitment"].detach()) == pytest.approx(loss)
    torch.testing.assert_close(output.statistics["codebook.use"], use_L)


@pytest.mark.parametrize("opened", ["some", "none"])
def test_layouts_agree(opened: str) -> None:
    """Results, losses, statistics and gradients are equal; without open pairs all are 0, and none is missing."""
    c_BUV = compatibilities() if opened == "some" else torch.zeros(B, U, V, dtype=torch.float64)
    dense, packed = run_body(DensePairs, c_BUV), run_body(PackedPairs, c_BUV)
    both = [(dense[0], packed[0]), *zip(dense[2], packed[2], strict=True)]
    assert dense[1].aux_losses.keys() == packed[1].aux_losses.keys() == {"message_commitment"}
    assert dense[1].statistics.keys() == packed[1].statistics.keys()
    both += [(dense[1].aux_losses[name], packed[1].aux_losses[name]) for name in dense[1].aux_losses]
    both += [(dense[1].statistics[name], packed[1].statistics[name]) for name in dense[1].statistics]
    for dense_value, packed_value in both:
        torch.testing.assert_close(dense_value, packed_value, rtol=1e-9, atol=1e-9)
        assert opened == "some" or not dense_value.any()


def test_closed_pairs_do_not_count() -> None:
    """Rows of closed pairs may be NaN in the dense layout."""
    script, c_BUV, x_BVD = build_script(), compatibilities(), randn(B, V, D, seed=2)
    body = script.body
    closed_UBV1 = (c_BUV == 0).transpose(0, 1).unsqueeze(-1)
    rows_RD = randn(U, B, V, D, seed=5)
    outputs = []
    for value in (0.0, torch.nan):
        body.inner.forward = lambda *_, value=value: torch.where(closed_UBV1, value, rows_RD)
        outputs.append(body(x_BVD, None, DensePairs(c_BUV)))
    torch.testing.assert_close(*(output.aux_losses["message_commitment"] for output in outputs), rtol=0, atol=0)
    for name, value in outputs[0].statistics.items():
        torch.testing.assert_close(value, outputs[1].statistics[name], rtol=0, atol=0)
    assert float(outputs[0].statistics["codebook.use"].sum()) == pytest.approx(3 * float(c_BUV.sum()))


def test_commitment_passes_no_gradient_to_compatibilities() -> None:
    """They are the weights of the loss, and could be lowered to reduce it."""
    body, c_BUV = build_script().body, compatibilities().requires_grad_()
    rows_RD = randn(U, B, V, D, seed=5).requires_grad_()
    body.inner.forward = lambda *_: rows_RD
    loss = body(randn(B, V, D, seed=2), None, DensePairs(c_BUV)).aux_losses["message_commitment"]
    to_rows, to_c = torch.autograd.grad(loss, [rows_RD, c_BUV], allow_unused=True)
    assert to_rows.any()
    assert to_c is None
