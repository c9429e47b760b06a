"""The body in recipes: a few training steps in both layouts, and invalid options."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework import build_model, load_recipe
from ni_framework.errors import RecipeError
from ni_framework.training.train import train

RECIPE = Path(__file__).parents[1] / "recipes" / "undirected_digits.yaml"
SMALL = ("model.width=12", "model.body.heads=2", "model.body.key=3", "model.input.patch=4", "model.code=5")


@pytest.mark.parametrize("order", ["forward", "hidden_first", "backward"])
@pytest.mark.parametrize("execution", ["dense", "packed"])
def test_trains(order: str, execution: str, tmp_path: Path) -> None:
    overrides = (*SMALL, f"model.body.order={order}", f"model.execution={execution}", "train.steps=3", "train.batch=8")
    summary = train(load_recipe(RECIPE, overrides), tmp_path / "run")
    assert 0 < summary["metrics"]["train/loss"] < 10


def test_one_sweep_backward_is_rejected() -> None:
    recipe = load_recipe(RECIPE, [*SMALL, "model.body.order=backward", "model.body.sweeps=1"])
    with pytest.raises(RecipeError, match="one sweep backward updates the output before") as caught:
        build_model(recipe)
    assert "help: use `sweeps: 2` or more, or `order: forward`" in str(caught.value)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(RecipeError, match="5 heads cannot share a width of 12") as caught:
        build_model(load_recipe(RECIPE, [*SMALL, "model.body.heads=5"]))
    assert "help: choose a number of heads that divides model.width, as 4 does" in str(caught.value)


def test_sweeps_do_not_change_the_number_of_parameters() -> None:
    counts = [
        sum(
            parameter.numel()
            for parameter in build_model(load_recipe(RECIPE, [*SMALL, f"model.body.sweeps={n}"])).parameters()
        )
        for n in (1, 3)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweeps=0", "must be at least 1, not 0"),
        ("order=sideways", "must be .forward., .hidden_first. or .backward., not .sideways."),
    ],
)
def test_values_out_of_bounds(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(RECIPE, [f"model.body.{override}"])
