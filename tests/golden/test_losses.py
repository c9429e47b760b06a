"""The first training losses of every shipped recipe that is not too large, with the local engine. They must not change.

After an intended change rewrite them with `NI_REWRITE=1 pytest tests/golden`, and give the reason in the commit message.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torch import Tensor

from ni_framework.contracts import Batch, Data
from ni_framework.data.sampler import EpochSampler
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import RunError
from ni_framework.model.compose import build_data, build_model
from ni_framework.nn.random import rng_keys, uniform
from ni_framework.registry import load_recipe
from tests.golden.test_recipes import BUILDABLE_RECIPES, GOLDEN_DIR, RECIPES

pytestmark = pytest.mark.slow

STEPS = 20
# Between machines; on one machine the losses are bit-identical.
TOLERANCE = 1e-4


def first_losses(name: str) -> list[float]:
    """The training losses of the first steps; if the data files are absent, on random inputs and in small batches."""
    recipe = load_recipe(RECIPES / f"{name}.yaml", ["engine.use=local"])
    data = build_data(recipe)
    try:
        split = data.open()["train"]
    except RunError:
        recipe = load_recipe(RECIPES / f"{name}.yaml", ["engine.use=local", "train.batch=4"])
        split, steps = RandomSplit(data), 4
    else:
        steps = STEPS
    engine = LocalEngine(build_model(recipe), recipe)
    sampler = EpochSampler(split, recipe.train.batch, recipe.seed)
    return [engine.step(step, sampler[step], trace=False).values["loss"].item() for step in range(steps)]


class RandomSplit:
    """Random inputs with random targets for all tasks."""

    def __init__(self, data: Data) -> None:
        self.shape, self.tasks = data.shape, data.tasks

    def __len__(self) -> int:
        return 1000

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        assert key_B is not None
        targets = {
            task: (uniform(rng_keys(1, key_B), 1)[:, 0] * classes).long() for task, classes in self.tasks.items()
        }
        return Batch(4 * uniform(key_B, *self.shape) - 2, targets)


def golden_losses_path(name: str) -> Path:
    """The file with the losses of a recipe."""
    return GOLDEN_DIR / f"{name}.losses.txt"


@pytest.mark.parametrize("name", BUILDABLE_RECIPES)
def test_first_losses(name: str) -> None:
    """Every step is within the tolerance."""
    losses = first_losses(name)
    if os.environ.get("NI_REWRITE") == "1":
        golden_losses_path(name).parent.mkdir(parents=True, exist_ok=True)
        golden_losses_path(name).write_text("".join(f"{loss:.6f}\n" for loss in losses))
    assert losses == pytest.approx(
        [float(line) for line in golden_losses_path(name).read_text().split()], abs=TOLERANCE
    )
