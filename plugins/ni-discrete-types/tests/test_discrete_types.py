"""Discrete types: against loops, under masks, and how a recipe may cut them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.contracts import Context
from ni_framework.errors import RecipeError
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.noise import KeyedNoise
from ni_framework.recipe import Recipe
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
  type_inference: {use: discrete, heads: 2, entries: 7, commitment: 0.3, decay: 0.5}
  router: {use: kernel, truncation: 1.0, bandwidth: 0.7}
  body: {use: discrete_messages, heads: 3, entries: 9, commitment: 0.2, decay: 0.5, inner: {use: lines_of_code, heads: 2, key: 3}}
data: {use: digits}
train: {steps: 3, batch: 8, log_every: 1}
"""
B, V, D, T = 2, 6, 12, 8


def recipe_of(*overrides: str) -> Recipe:
    return recipe_in(TEXT, overrides)


def model_of(*overrides: str) -> Interpreter:
    return build_model(recipe_of(*overrides)).double().train()


def script_of(model: Interpreter) -> Any:
    return next(iter(model.scripts))


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def place(present_BV: Tensor | None = None) -> Context:
    """Where a type inference is called."""
    return Context(0, present_BV, KeyedNoise(torch.zeros(1, dtype=torch.long), 0, 0))


def test_types_against_loops() -> None:
    """Types of length one in segments, a masked element left out, a sample of nothing else worth 0."""
    inference = script_of(model_of()).type_inference
    x_BVD = randn(B + 1, V, D, seed=2)
    present_BV = torch.ones(B + 1, V, dtype=torch.bool)
    present_BV[0, 3], present_BV[2] = False, False
    answer = inference(x_BVD, place(present_BV))
    loss, use = 0.0, 0
    for b in range(B):
        gaps = []
        for i in range(V):
            type_T = inference.inner(x_BVD[b, i][None, None], place())[0, 0].detach()
            type_T = type_T / type_T.norm()
            entries, gap = [], 0.0
            for segment in type_T.chunk(2):
                squares = (segment - inference.codebook.entry).square().sum(dim=1)
                entries.append(inference.codebook.entry[squares.argmin()])
                gap += float(squares.min()) / 2
            torch.testing.assert_close(answer.result[b, i], torch.cat(entries))
            gaps += [gap] if present_BV[b, i] else []
        loss += 0.3 * sum(gaps) / len(gaps) / (B + 1)
        use += 2 * len(gaps)
    assert float(answer.losses["type_commitment"].detach()) == pytest.approx(loss)
    assert float(answer.statistics["codebook.use"].sum()) == use == 2 * (2 * V - 1)


def test_gradients_pass_types_as_if_nothing_was_replaced() -> None:
    inference = script_of(model_of()).type_inference
    x_BVD, weight_BVT = randn(B, V, D, seed=2).requires_grad_(), randn(B, V, T, seed=3)
    parameters = [x_BVD, *inference.parameters()]
    plain = torch.nn.functional.normalize(inference.inner(x_BVD, place()), dim=-1)
    found = torch.autograd.grad((inference(x_BVD, place()).result * weight_BVT).sum(), parameters)
    for gradient, expected in zip(found, torch.autograd.grad((plain * weight_BVT).sum(), parameters), strict=True):
        torch.testing.assert_close(gradient, expected)


def test_masked_elements_count_for_nothing() -> None:
    """In losses and statistics of the whole model, whatever stands in their place."""
    model, mask = model_of("model.input.positions=absolute"), torch.tensor([[True, True, False, True]] * 3)
    mask[1, 0] = False
    inputs = randn(3, 1, 8, 8, seed=6)
    other = inputs.clone()
    other[:, :, 4:, :4], other[1, :, :4, :4] = torch.nan, 7
    told = [model(of, mask, detail="losses", key=torch.arange(3)) for of in (inputs, other)]
    assert told[0].losses.keys() == {"type_commitment", "message_commitment"}
    for one, two in zip(told[0][:3], told[1][:3], strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, two[name], rtol=0, atol=0)
    present = 2 * 2 * (3 * 5 - 4)  # iterations, heads, elements with CLS
    assert float(told[0].statistics["0.type_inference.codebook.use"].sum()) == present


@pytest.mark.parametrize(
    "mask", [None, [[True] * 4, [True, False, False, False], [True] * 4, [True, True, False, True]]]
)
def test_losses_do_not_depend_on_how_a_batch_is_divided(mask: list[list[bool]] | None) -> None:
    model, inputs = model_of(), randn(4, 1, 8, 8, seed=6)
    present = None if mask is None else torch.tensor(mask)
    whole = model(inputs, present, detail="losses")
    parts = [
        model(inputs[n : n + 1], None if present is None else present[n : n + 1], detail="losses") for n in range(4)
    ]
    for name, loss in whole.losses.items():
        torch.testing.assert_close(loss, torch.stack([part.losses[name] for part in parts]).mean())
    for name, value in whole.statistics.items():
        torch.testing.assert_close(value, torch.stack([part.statistics[name] for part in parts]).sum(dim=0))


def test_evaluation_tells_and_moves_nothing() -> None:
    model = model_of().eval()
    forward = model(randn(2, 1, 8, 8, seed=6), detail="losses")
    assert not forward.losses
    assert not forward.statistics


@pytest.mark.parametrize(
    ("override", "line", "hint"),
    [
        (
            "model.type_inference.heads=3",
            "model.type_inference.heads: types of width 8 cannot be cut into 3 equal segments",
            "model.type is 8, which these divide: 1, 2, 4, 8",
        ),
        (
            "model.body.heads=5",
            "model.body.heads: messages of width 12 cannot be cut into 5 equal segments",
            "model.width is 12, which these divide: 1, 2, 3, 4, 6, 12",
        ),
    ],
)
def test_segments_must_be_equal(override: str, line: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_model(recipe_of(override))
    (problem,) = caught.value.problems
    assert (problem.message, problem.hint) == (line, hint)
