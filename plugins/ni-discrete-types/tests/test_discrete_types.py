"""Discrete types and messages: against loops, in both layouts, under masks, and in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.contracts import Answer
from ni_framework.engine.local import LocalEngine
from ni_framework.engine.order import Order
from ni_framework.engine.trainer import train
from ni_framework.errors import RecipeError
from ni_framework.model.compose import build_data, build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.nn.dense import DensePairs
from ni_framework.nn.packed import PackedPairs
from ni_framework.recipe import Recipe
from ni_framework.registry import load_recipe, recipe_in

RECIPES = Path(__file__).parents[1] / "recipes"
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
B, U, V, D, T = 2, 3, 6, 12, 8


def recipe_of(*overrides: str) -> Recipe:
    return recipe_in(TEXT, overrides)


def model_of(*overrides: str) -> Interpreter:
    return build_model(recipe_of(*overrides)).double().train()


def script_of(model: Interpreter) -> Any:
    return next(iter(model.scripts))


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compatibilities() -> Tensor:
    """Random, some closed; function 1 takes nothing of sample 0."""
    c_BUV = randn(B, U, V, seed=0).abs()
    c_BUV[randn(B, U, V, seed=1) < -0.4] = 0
    c_BUV[0, 1] = 0
    return c_BUV


def test_types_against_loops() -> None:
    """Types of length one in segments, an element whose state is 0 left out, a sample of nothing else worth 0."""
    inference = script_of(model_of()).type_inference
    x_BVD = randn(B + 1, V, D, seed=2)
    x_BVD[0, 3], x_BVD[2] = 0, 0
    answer = inference(x_BVD)
    loss, use = 0.0, 0
    for b in range(B):
        gaps = []
        for i in range(V):
            type_T = inference.inner(x_BVD[b, i][None, None])[0, 0].detach()
            type_T = type_T / type_T.norm()
            entries, gap = [], 0.0
            for segment in type_T.chunk(2):
                squares = (segment - inference.codebook.entry).square().sum(dim=1)
                entries.append(inference.codebook.entry[squares.argmin()])
                gap += float(squares.min()) / 2
            torch.testing.assert_close(answer.result[b, i], torch.cat(entries))
            gaps += [gap] if x_BVD[b, i].any() else []
        loss += 0.3 * sum(gaps) / len(gaps) / (B + 1)
        use += 2 * len(gaps)
    assert float(answer.losses["type_commitment"].detach()) == pytest.approx(loss)
    assert float(answer.statistics["codebook.use"].sum()) == use == 2 * (2 * V - 1)


def test_gradients_pass_types_as_if_nothing_was_replaced() -> None:
    inference = script_of(model_of()).type_inference
    x_BVD, weight_BVT = randn(B, V, D, seed=2).requires_grad_(), randn(B, V, T, seed=3)
    parameters = [x_BVD, *inference.parameters()]
    plain = torch.nn.functional.normalize(inference.inner(x_BVD), dim=-1)
    found = torch.autograd.grad((inference(x_BVD).result * weight_BVT).sum(), parameters)
    for gradient, expected in zip(found, torch.autograd.grad((plain * weight_BVT).sum(), parameters), strict=True):
        torch.testing.assert_close(gradient, expected)


def told_by(layout: Any, c_BUV: Tensor) -> tuple[Tensor, Answer, list[Tensor]]:
    """Pooled messages, the whole answer, and gradients of both."""
    script = script_of(model_of())
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
    script, c_BUV, x_BVD = script_of(model_of()), compatibilities(), randn(B, V, D, seed=2)
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
    script, c_BUV, x_BVD = script_of(model_of()), compatibilities(), randn(B, V, D, seed=2)
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
    body, c_BUV = script_of(model_of()).body, compatibilities().requires_grad_()
    rows_RD = randn(U, B, V, D, seed=5).requires_grad_()
    body.inner.forward = lambda *_: rows_RD
    loss = body(randn(B, V, D, seed=2), None, DensePairs(c_BUV)).losses["message_commitment"]
    to_rows, to_c = torch.autograd.grad(loss, [rows_RD, c_BUV], allow_unused=True)
    assert to_rows.any()
    assert to_c is None


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


BOOKS = "scripts.0.type_inference.codebook", "scripts.0.body.codebook"


def test_training_moves_the_codebooks_alike_however_a_batch_is_divided() -> None:
    ends = []
    for accumulate in (1, 4):
        recipe = recipe_of(f"train.accumulate={accumulate}")
        model, order = build_model(recipe), Order(build_data(recipe).open()["train"], 8, 0)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        LocalEngine(model, recipe).step(0, order[0], trace=False)
        ends.append([model.state_dict()[f"{book}.entry"] for book in BOOKS])
        assert not any(torch.allclose(e, before[f"{b}.entry"]) for e, b in zip(ends[-1], BOOKS, strict=True))
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_one_around_another() -> None:
    """Losses add up, and each takes in its own statistics, though they are of one kind and one name."""
    recipe = recipe_of(
        "model.type_inference.inner={use: discrete, heads: 4, entries: 5}",
        "model.body.inner={use: discrete_messages, heads: 2, entries: 5, inner: {use: lines_of_code, heads: 2, key: 3}}",
    )
    model, x_BVD = build_model(recipe), randn(B, V, D, seed=2).float()
    inference = script_of(model).type_inference
    losses = inference(x_BVD).losses["type_commitment"], inference.inner(x_BVD).losses["type_commitment"]
    assert losses[0] > losses[1] > 0
    before = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("codebook.entry")}
    LocalEngine(model, recipe).step(0, Order(build_data(recipe).open()["train"], 8, 0)[0], trace=False)
    assert len(before) == 4
    assert not any(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_bodies_compile_in_one_piece() -> None:
    script, x_BVD, c_BUV = script_of(model_of()), randn(B, V, D, seed=2), compatibilities()

    def run(x_BVD: Tensor, c_BUV: Tensor) -> Tensor:
        inferred = script.type_inference(x_BVD)
        answer = script.body(x_BVD, script.body.prepare(script.embedding()[1], V), DensePairs(c_BUV))
        losses = inferred.losses["type_commitment"] + answer.losses["message_commitment"]
        return inferred.result.sum() + answer.result.sum() + losses

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x_BVD, c_BUV), run(x_BVD, c_BUV))


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


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_train_alike_in_both_layouts(path: Path, tmp_path: Path) -> None:
    losses = []
    for execution in ("dense", "packed"):
        recipe = load_recipe(path, [f"model.execution={execution}", "train.steps=3", "model.router.truncation=1.0"])
        metrics = train(recipe, tmp_path / execution)["metrics"]
        losses.append(metrics["train/loss"])
        assert any(name.endswith("_commitment") and value > 0 for name, value in metrics.items())
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
