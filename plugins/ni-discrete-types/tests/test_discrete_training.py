"""Types and messages together: updates of codebooks in training, nested codebooks, and the recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ni_framework.contracts import Context
from ni_framework.data.sampler import EpochSampler
from ni_framework.engines.local import LocalEngine
from ni_framework.model.compose import build_data, build_model
from ni_framework.model.noise import KeyedNoise
from ni_framework.recipe import Recipe
from ni_framework.registry import load_recipe, load_recipe_text
from ni_framework.training.train import train

RECIPES = Path(__file__).parents[1] / "recipes"
BOOKS = "scripts.0.type_inference.codebook", "scripts.0.body.codebook"
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
B, U, V, D = 2, 3, 6, 12


def make_recipe(*overrides: str) -> Recipe:
    return load_recipe_text(TEXT, overrides)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_codebook_updates_do_not_depend_on_micro_batches() -> None:
    ends = []
    for micro_batches in (1, 4):
        recipe = make_recipe(f"train.micro_batches={micro_batches}")
        model, order = build_model(recipe), EpochSampler(build_data(recipe).open()["train"], 8, 0)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        LocalEngine(model, recipe).step(0, order[0], trace=False)
        ends.append([model.state_dict()[f"{book}.entry"] for book in BOOKS])
        assert not any(torch.allclose(e, before[f"{b}.entry"]) for e, b in zip(ends[-1], BOOKS, strict=True))
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_empty_batch_has_zero_loss() -> None:
    """A rank without samples takes part, with losses and gradients of 0."""
    model = build_model(make_recipe()).train()
    losses = model(torch.empty(0, 1, 8, 8), detail="losses").losses
    assert [float(loss.detach()) for loss in losses.values()] == [0, 0]
    torch.stack(list(losses.values())).sum().backward()
    script = next(iter(model.scripts))
    for parameter in [*script.type_inference.parameters(), *script.body.parameters()]:
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_nested_codebooks() -> None:
    """Losses add up, and each codebook receives its own statistics, though the names are the same."""
    recipe = make_recipe(
        "model.type_inference.inner={use: discrete, heads: 4, entries: 5}",
        "model.body.inner={use: discrete_messages, heads: 2, entries: 5, inner: {use: lines_of_code, heads: 2, key: 3}}",
    )
    model, x_BVD = build_model(recipe), randn(B, V, D, seed=2).float()
    inference = next(iter(model.scripts)).type_inference
    context = Context(0, None, KeyedNoise(torch.zeros(B, dtype=torch.long), 0, 0))
    losses = [module(x_BVD, context).aux_losses["type_commitment"] for module in (inference, inference.inner)]
    assert losses[0] > losses[1] > 0
    before = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("codebook.entry")}
    LocalEngine(model, recipe).step(0, EpochSampler(build_data(recipe).open()["train"], 8, 0)[0], trace=False)
    assert len(before) == 4
    assert not any(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_train_equally_in_both_layouts(path: Path, tmp_path: Path) -> None:
    losses = []
    for execution in ("dense", "packed"):
        recipe = load_recipe(path, [f"model.execution={execution}", "train.steps=3", "model.router.truncation=1.0"])
        metrics = train(recipe, tmp_path / execution)["metrics"]
        losses.append(metrics["train/loss"])
        assert any(name.endswith("_commitment") and value > 0 for name, value in metrics.items())
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
