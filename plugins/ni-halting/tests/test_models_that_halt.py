"""Models with halting: both layouts, a few training steps, and invalid options."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ni_framework import build_model, load_recipe
from ni_framework.errors import RecipeError
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.routing_metrics import routing_metrics
from ni_framework.model.trace import trace
from ni_framework.training.train import train

RECIPES = Path(__file__).parents[1] / "recipes"
SMALL = ("model.width=12", "model.body.heads=2", "model.body.key=3", "model.input.patch=4", "model.code=5")


def build_small_model(recipe: str, execution: str) -> Interpreter:
    """Returns a small model in float64 with closed pairs, whose elements halt at different times."""
    overrides = (*SMALL, f"model.execution={execution}", "model.router.truncation=0.9")
    model = build_model(load_recipe(RECIPES / recipe, overrides)).double().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@pytest.mark.parametrize("recipe", ["act_digits.yaml", "ponder_digits.yaml"])
def test_layouts_agree(recipe: str) -> None:
    """Logits, losses and gradients are equal, with a masked sample and elements that halt at different times."""
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    mask = torch.tensor([[True, True, True, True]] * 3 + [[True, False, False, True]])
    results = []
    for execution in ("dense", "packed"):
        model = build_small_model(recipe, execution)
        forward = model(inputs, mask, detail="losses")
        total = next(iter(forward.logits.values())).square().sum() + forward.losses["ponder"]
        gradients = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        results.append((forward.logits, forward.losses, [g for g in gradients if g is not None]))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    model = build_small_model(recipe, "packed")
    model_trace = trace(model, inputs, mask)
    assert 1 < routing_metrics(model_trace, mask)["routing/iterations/script0"] < 6
    open_I = [int((c_BUV > 0).sum()) for c_BUV in model_trace.compatibility[0]]
    assert open_I[-1] < open_I[0]


@pytest.mark.parametrize("recipe", ["act_digits.yaml", "ponder_digits.yaml"])
@pytest.mark.parametrize("execution", ["dense", "packed"])
def test_trains(recipe: str, execution: str, tmp_path: Path) -> None:
    overrides = (*SMALL, f"model.execution={execution}", "train.steps=3", "train.batch=8")
    summary = train(load_recipe(RECIPES / recipe, overrides), tmp_path / "run")
    assert summary["metrics"]["train/ponder"] > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("{use: act, eps: 0}", "must be greater than 0, not 0"),
        ("{use: act, weight: -1}", "must be at least 0, not -1"),
        ("{use: ponder, mean: 1}", "must be greater than 1, not 1"),
        ("{use: ponder, threshold: 1}", "must be less than 1, not 1"),
    ],
)
def test_values_out_of_bounds(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(RECIPES / "act_digits.yaml", [f"model.halting={override}"])
