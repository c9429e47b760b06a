"""Discrete types: comparison with loops, masks, micro-batches, and invalid options."""

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
  type_inference: {use: discrete, heads: 2, entries: 7, commitment: 0.3, decay: 0.5}
  router: {use: kernel, truncation: 1.0, bandwidth: 0.7}
  body: {use: discrete_messages, heads: 3, entries: 9, commitment: 0.2, decay: 0.5, inner: {use: lines_of_code, heads: 2, key: 3}}
data: {use: digits}
train: {steps: 3, batch: 8, log_every: 1}
"""
B, V, D, T = 2, 6, 12, 8


def make_recipe(*overrides: str) -> Recipe:
    return load_recipe_text(TEXT, overrides)


def build_small_model(*overrides: str) -> Interpreter:
    return build_model(make_recipe(*overrides)).double().train()


def first_script(model: Interpreter) -> Any:
    return next(iter(model.scripts))


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_context(present_BV: Tensor | None = None) -> Context:
    """Returns the context of a call in iteration 0."""
    return Context(0, present_BV, KeyedNoise(torch.zeros(1, dtype=torch.long), 0, 0))


def test_types_against_loops() -> None:
    """Types have unit length before they are replaced; masked elements do not count, and a sample without others adds 0."""
    inference = first_script(build_small_model()).type_inference
    x_BVD = randn(B + 1, V, D, seed=2)
    present_BV = torch.ones(B + 1, V, dtype=torch.bool)
    present_BV[0, 3], present_BV[2] = False, False
    output = inference(x_BVD, make_context(present_BV))
    loss, use = 0.0, 0
    for b in range(B):
        gaps = []
        for i in range(V):
            type_T = inference.inner(x_BVD[b, i][None, None], make_context())[0, 0].detach()
            type_T = type_T / type_T.norm()
            entries, gap = [], 0.0
            for segment in type_T.chunk(2):
                squares = (segment - inference.codebook.entry).square().sum(dim=1)
                entries.append(inference.codebook.entry[squares.argmin()])
                gap += float(squares.min()) / 2
            torch.testing.assert_close(output.value[b, i], torch.cat(entries))
            gaps += [gap] if present_BV[b, i] else []
        loss += 0.3 * sum(gaps) / len(gaps) / (B + 1)
        use += 2 * len(gaps)
    assert float(output.aux_losses["type_commitment"].detach()) == pytest.approx(loss)
    assert float(output.statistics["codebook.use"].sum()) == use == 2 * (2 * V - 1)


def test_gradients_pass_as_if_nothing_was_replaced() -> None:
    inference = first_script(build_small_model()).type_inference
    x_BVD, weight_BVT = randn(B, V, D, seed=2).requires_grad_(), randn(B, V, T, seed=3)
    parameters = [x_BVD, *inference.parameters()]
    plain = torch.nn.functional.normalize(inference.inner(x_BVD, make_context()), dim=-1)
    gradients = torch.autograd.grad((inference(x_BVD, make_context()).value * weight_BVT).sum(), parameters)
    for gradient, expected in zip(gradients, torch.autograd.grad((plain * weight_BVT).sum(), parameters), strict=True):
        torch.testing.assert_close(gradient, expected)


def test_masked_elements_do_not_count() -> None:
    """Losses and statistics of the model do not depend on the values of masked elements."""
    model, mask = build_small_model("model.input.positions=absolute"), torch.tensor([[True, True, False, True]] * 3)
    mask[1, 0] = False
    inputs = randn(3, 1, 8, 8, seed=6)
    other = inputs.clone()
    other[:, :, 4:, :4], other[1, :, :4, :4] = torch.nan, 7
    outputs = [model(images, mask, detail="losses", key=torch.arange(3)) for images in (inputs, other)]
    assert outputs[0].losses.keys() == {"type_commitment", "message_commitment"}
    for one, two in zip(outputs[0][:3], outputs[1][:3], strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, two[name], rtol=0, atol=0)
    # Iterations times heads times elements, CLS elements included.
    present = 2 * 2 * (3 * 5 - 4)
    assert float(outputs[0].statistics["0.type_inference.codebook.use"].sum()) == present


@pytest.mark.parametrize(
    "mask", [None, [[True] * 4, [True, False, False, False], [True] * 4, [True, True, False, True]]]
)
def test_losses_do_not_depend_on_micro_batches(mask: list[list[bool]] | None) -> None:
    model, inputs = build_small_model(), randn(4, 1, 8, 8, seed=6)
    present = None if mask is None else torch.tensor(mask)
    whole = model(inputs, present, detail="losses")
    parts = [
        model(inputs[n : n + 1], None if present is None else present[n : n + 1], detail="losses") for n in range(4)
    ]
    for name, loss in whole.losses.items():
        torch.testing.assert_close(loss, torch.stack([part.losses[name] for part in parts]).mean())
    for name, value in whole.statistics.items():
        torch.testing.assert_close(value, torch.stack([part.statistics[name] for part in parts]).sum(dim=0))


def test_evaluation_has_no_losses_and_statistics() -> None:
    model = build_small_model().eval()
    forward = model(randn(2, 1, 8, 8, seed=6), detail="losses")
    assert not forward.losses
    assert not forward.statistics


@pytest.mark.parametrize(
    ("override", "line", "hint"),
    [
        (
            "model.type_inference.heads=3",
            "model.type_inference.heads: types of width 8 cannot be cut into 3 equal segments",
            "model.type is 8; choose one of its divisors: 1, 2, 4, 8",
        ),
        (
            "model.body.heads=5",
            "model.body.heads: messages of width 12 cannot be cut into 5 equal segments",
            "model.width is 12; choose one of its divisors: 1, 2, 3, 4, 6, 12",
        ),
    ],
)
def test_number_of_segments_must_divide_the_width(override: str, line: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_model(make_recipe(override))
    (problem,) = caught.value.problems
    assert problem.message == line
    assert problem.hint == hint
