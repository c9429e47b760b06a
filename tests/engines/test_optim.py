"""Which parameters AdamW decays, and the learning rate compared with torch's own schedules."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ni_framework import build_model
from ni_framework.engines.lr_schedule import lr_factor
from ni_framework.engines.optim import build_adamw
from ni_framework.recipe import OptimizerConfig, ScheduleConfig
from tests.helpers.small_recipe import load_small_recipe


def test_only_matrices_decay(tmp_path: Path) -> None:
    """Biases, norms, codes, signatures, bandwidth, CLS and tables of positions are in the group without decay."""
    recipe = load_small_recipe(tmp_path, "model.body.positions=sep_sum", "model.input.positions=absolute")
    model = build_model(recipe)
    decayed, undecayed = build_adamw(model, OptimizerConfig(lr=0.1, weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.3, 0.0)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {name_of[id(parameter)] for parameter in decayed["params"]}
    undecayed_names = {name_of[id(parameter)] for parameter in undecayed["params"]}
    assert decayed_names | undecayed_names == set(name_of.values())
    assert {
        "input.embedding.weight",
        "head.maps.0.1.weight",
        "scripts.0.body.lines.0.maps.query.weight",
        "scripts.0.type_inference.layers.1.weight",
    } <= decayed_names
    assert {
        "head.cls",
        # The weight of a LayerNorm.
        "head.maps.0.0.weight",
        "input.positions.table",
        "scripts.0.embedding.code",
        "scripts.0.embedding.signature",
        "scripts.0.router.log_bandwidth",
        "scripts.0.body.lines.0.positions.table_row",
        "scripts.0.body.lines.0.maps.value.bias",
    } <= undecayed_names


def test_frozen_parameters_are_in_no_group(tmp_path: Path) -> None:
    """Signatures that the recipe freezes never reach the optimizer."""
    model = build_model(
        load_small_recipe(
            tmp_path, "model.embedding={use: separate, signatures: frozen}", "model.router.learn_bandwidth=false"
        )
    )
    optimized = {
        id(parameter) for group in build_adamw(model, OptimizerConfig()).param_groups for parameter in group["params"]
    }
    parameters = dict(model.named_parameters())
    assert id(parameters["scripts.0.embedding.signature"]) not in optimized
    assert id(parameters["scripts.0.router.log_bandwidth"]) not in optimized
    assert id(parameters["scripts.0.embedding.code"]) in optimized


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.1), (37, 0.3), (250, 0.02)])
def test_one_cycle_equals_torch(steps: int, warmup: float) -> None:
    """The closed form gives the rates of torch's OneCycleLR at every step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, pct_start=warmup)
    schedule = ScheduleConfig(use="one_cycle", warmup=warmup)
    for step in range(steps):
        assert lr_factor(step, steps, schedule) == pytest.approx(torchs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        if step < steps - 1:
            torchs.step()


def test_cosine_and_constant() -> None:
    """Both rise linearly; then cosine falls as half a cosine, and constant stays."""
    cosine, constant = ScheduleConfig(use="cosine", warmup=0.1), ScheduleConfig(use="constant", warmup=0.1)
    for step in range(10):
        assert lr_factor(step, 100, cosine) == lr_factor(step, 100, constant) == pytest.approx((step + 1) / 11)
    assert lr_factor(55, 100, cosine) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert {lr_factor(step, 100, constant) for step in range(10, 100)} == {1.0}


@pytest.mark.parametrize("use", ["one_cycle", "cosine", "constant"])
def test_rate_is_positive_from_first_to_last_step(use: str) -> None:
    """Also for a run of one step, and without warm-up."""
    for steps in (1, 2, 3, 10):
        for warmup in (0.0, 0.1, 0.9):
            rates = [lr_factor(step, steps, ScheduleConfig(use=use, warmup=warmup)) for step in range(steps)]  # pyright: ignore[reportArgumentType]
            assert all(0 < rate <= 1 for rate in rates), (steps, warmup, rates)
