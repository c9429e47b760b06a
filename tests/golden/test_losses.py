"""The first losses of every shipped recipe: that the numbers did not move is part of done.

Rewrite with `NI_REWRITE=1 pytest tests/golden`, and say in the commit message why they moved.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ni_framework.engine.local import LocalEngine
from ni_framework.engine.order import Order
from ni_framework.model.compose import build_data, build_model
from ni_framework.registry import load_recipe
from tests.golden.test_recipes import HERE, NAMES, RECIPES

STEPS = 20
TOLERANCE = 1e-4  # between machines; on one machine they are equal to the last bit


def losses_of(name: str) -> list[float]:
    """The training losses of the first steps."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    engine = LocalEngine(build_model(recipe), recipe)
    order = Order(build_data(recipe).open()["train"], recipe.train.batch, recipe.seed)
    return [engine.step(step, order[step], trace=False).values["loss"].item() for step in range(STEPS)]


def golden_of(name: str) -> Path:
    """Where they stand."""
    return HERE / f"{name}.losses.txt"


@pytest.mark.parametrize("name", NAMES)
def test_first_losses(name: str) -> None:
    """Within the tolerance, step by step."""
    losses = losses_of(name)
    if os.environ.get("NI_REWRITE") == "1":
        golden_of(name).write_text("".join(f"{loss:.6f}\n" for loss in losses))
    assert losses == pytest.approx([float(line) for line in golden_of(name).read_text().split()], abs=TOLERANCE)
