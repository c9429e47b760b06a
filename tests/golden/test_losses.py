"""The first losses of every shipped recipe that is not too large, by the local engine: that they did not move is part of done.

Rewrite with `NI_REWRITE=1 pytest tests/golden`, and say in the commit message why they moved.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torch import Tensor

from ni_framework.contracts import Batch, Data
from ni_framework.data.sampler import Order
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import RunError
from ni_framework.model.compose import build_data, build_model
from ni_framework.nn.random import keys, uniform
from ni_framework.registry import load_recipe
from tests.golden.test_recipes import HERE, REAL, RECIPES

STEPS = 20
TOLERANCE = 1e-4  # between machines; on one machine they are equal to the last bit


def losses_of(name: str) -> list[float]:
    """The training losses of the first steps; where the data are not here, on random inputs and in small batches."""
    recipe = load_recipe(RECIPES / f"{name}.yaml", ["engine.use=local"])
    data = build_data(recipe)
    try:
        split = data.open()["train"]
    except RunError:
        recipe = load_recipe(RECIPES / f"{name}.yaml", ["engine.use=local", "train.batch=4"])
        split, steps = Random(data), 4
    else:
        steps = STEPS
    engine = LocalEngine(build_model(recipe), recipe)
    order = Order(split, recipe.train.batch, recipe.seed)
    return [engine.step(step, order[step], trace=False).values["loss"].item() for step in range(steps)]


class Random:
    """Random inputs with random answers, all tasks for each."""

    def __init__(self, data: Data) -> None:
        self.shape, self.tasks = data.shape, data.tasks

    def __len__(self) -> int:
        return 1000

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        assert key_B is not None
        targets = {task: (uniform(keys(1, key_B), 1)[:, 0] * classes).long() for task, classes in self.tasks.items()}
        return Batch(4 * uniform(key_B, *self.shape) - 2, targets)


def golden_of(name: str) -> Path:
    """Where they stand."""
    return HERE / f"{name}.losses.txt"


@pytest.mark.parametrize("name", REAL)
def test_first_losses(name: str) -> None:
    """Within the tolerance, step by step."""
    losses = losses_of(name)
    if os.environ.get("NI_REWRITE") == "1":
        golden_of(name).parent.mkdir(parents=True, exist_ok=True)
        golden_of(name).write_text("".join(f"{loss:.6f}\n" for loss in losses))
    assert losses == pytest.approx([float(line) for line in golden_of(name).read_text().split()], abs=TOLERANCE)
