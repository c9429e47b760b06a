"""What processes do in the tests beside it; each function is called in all of them, with JSON documents."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from ni_framework import build_model
from ni_framework.engine.join import join
from ni_framework.engine.local import LocalEngine
from ni_framework.engine.order import Order
from ni_framework.engine.pieces import Piece
from ni_framework.engine.zero.engine import ZeroEngine
from ni_framework.model.compose import build_data
from tests.engine.small import small_recipe

# Everything is divided, in many small messages.
SPREAD = "engine.deepspeed.zero_optimization={stage3_param_persistence_threshold: 0, reduce_bucket_size: 1000}"
SPREAD_2 = "engine.deepspeed.zero_optimization={reduce_bucket_size: 1000}"


def team_size() -> int:
    """How many processes there are, as each of them sees it."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = small_recipe(Path(folder), "engine.use=zero")
    team = join(recipe.engine)
    return int(team.sum(torch.ones(())))


def compare_with_local(stage: int, overrides: list[str], steps: int = 10) -> dict[str, float]:
    """The largest differences of losses and weights to the local engine on the same batches."""
    spread = [SPREAD] if stage == 3 else [SPREAD_2] if stage else []
    with tempfile.TemporaryDirectory() as folder:
        recipe = small_recipe(Path(folder), "engine.use=zero", f"engine.stage={stage}", *spread, *overrides)
        team = join(recipe.engine)
        zero = ZeroEngine(recipe, team)
        parts = f"train.accumulate={zero.parts * team.size}"
        alone = small_recipe(Path(folder), *overrides, parts)
    local = LocalEngine(build_model(alone), alone)
    split, train = build_data(recipe).open()["train"], recipe.train
    whole, share = (Order(split, train.batch, 0, part) for part in (None, team.share(train.batch)))
    losses = [
        (
            local.step(step, whole[step], False).values["loss"] - zero.step(step, share[step], False).values["loss"]
        ).item()
        for step in range(steps)
    ]
    found = {"loss": max(map(abs, losses)), "weights": difference(zero.weights(), local.weights())}
    zero.close()
    return found


def difference(pieces: Any, whole: Any) -> float:
    """The largest difference of what this process holds to the whole tensors of the same names."""
    worst = 0.0
    for name, value in pieces.items():
        there = whole[name]
        if isinstance(value, Piece):
            there = there.flatten()[value.start : value.start + len(value.part_P)]
            value = value.part_P
        worst = max(worst, (value - there).abs().max().item() if value.numel() else 0.0)
    return worst
