"""A GPU computes the same as the CPU, up to rounding: `NI_GPU=1 pytest tests/gpu`.

The other tests compare bits, and do not see a GPU (`tests/conftest.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ni_framework import build_model, load_model, load_recipe
from ni_framework.analysis.bench import random_batch
from ni_framework.data.batch import to_device
from ni_framework.engines.local import LocalEngine
from tests.helpers.small_recipe import SMALL_RECIPE_YAML

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU, and the environment variable NI_GPU=1"
)
ROOT = Path(__file__).parents[2]
STEPS = 5


def train_losses(path: str, overrides: Sequence[str], device: str) -> list[float]:
    """Returns the losses of the first steps on random images, which are the same on every device."""
    recipe = load_recipe(ROOT / "recipes" / path, overrides)
    engine = LocalEngine(build_model(recipe, device), recipe)
    batch = to_device(random_batch(engine, 16), engine.device)
    return [engine.step(step, batch, trace=False).values["loss"].item() for step in range(STEPS)]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.execution=dense"],
        ["model.execution=packed", "model.router.truncation=1.0"],
        ["model.execution=auto", "model.router=stochastic_kernel", "train.micro_batches=2"],
        ["train.activation_checkpointing=iteration", "model.scripts=2", "train.ema_decay=0.9"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("recipe", ["digits.yaml", "digits_multitask.yaml"])
def test_first_losses_equal_those_on_the_cpu(recipe: str, overrides: list[str]) -> None:
    assert train_losses(recipe, overrides, "cuda") == pytest.approx(train_losses(recipe, overrides, "cpu"), rel=1e-3)


@pytest.mark.parametrize("execution", ["dense", "packed"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_losses_are_close(precision: str, execution: str) -> None:
    overrides = [f"model.execution={execution}", "model.router.truncation=1.0"]
    half = train_losses("digits.yaml", [*overrides, f"train.precision={precision}"], "cuda")
    assert half == pytest.approx(train_losses("digits.yaml", overrides, "cpu"), rel=0.05)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("execution", ["dense", "packed"])
def test_compiled_losses_equal_eager_losses(execution: str, precision: str) -> None:
    torch.compiler.reset()
    overrides = [f"model.execution={execution}", "model.router.truncation=1.0", f"train.precision={precision}"]
    compiled = train_losses("digits.yaml", [*overrides, "engine.compile=true"], "cuda")
    assert compiled == pytest.approx(
        train_losses("digits.yaml", overrides, "cuda"), rel=1e-3 if precision == "fp32" else 0.05
    )


class NiProcesses:
    """Runs the command `ni` in a folder, in a new process, with or without a GPU; returns what it prints with --json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "small.yaml").write_text(SMALL_RECIPE_YAML)

    def __call__(self, *arguments: object, gpu: bool = True) -> Any:
        environment = os.environ if gpu else os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "ni_framework", *map(str, arguments), "--json"]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def loss_curve(self, run: str) -> list[float]:
        """Returns the losses of a run, in the order of steps."""
        lines = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.fixture
def ni(tmp_path: Path) -> NiProcesses:
    return NiProcesses(tmp_path)


def test_a_run_continues_on_gpu_and_cpu(ni: NiProcesses) -> None:
    """Trained on a GPU, resumed there and on the CPU; evaluated, verified, grown and inspected on either."""
    recipe = ("small.yaml", "train.ema_decay=0.9", "train.schedule={use: constant, warmup: 0}")
    uninterrupted = ni("train", *recipe, "train.steps=12", "--output", "whole")["metrics"]
    ni("train", *recipe, "train.steps=6", "--output", "half")
    ni("verify", "half", gpu=False)
    resumed = ni("train", "--resume", "half", "train.steps=12")["metrics"]
    assert resumed["test/loss"] == pytest.approx(uninterrupted["test/loss"], rel=1e-4), "resumed on a GPU"
    on_cpu = ni("eval", "half", gpu=False)["metrics"]
    assert on_cpu["test/loss"] == pytest.approx(resumed["test/loss"], rel=1e-4), "evaluated on the CPU"
    ni("verify", "half")
    grown = ni("grow", "half", "--add", "2", "--body", "lines_of_code", "--freeze", "old", "--output", "grown")
    assert max(grown["change"].values()) < 1e-5, grown
    ni("train", "--resume", "grown", "train.steps=18")
    ni("train", "--resume", "grown", "train.steps=24", gpu=False)
    old, new = (dict(load_model(ni.folder / run).named_parameters()) for run in ("half", "grown"))
    for name, value in old.items():
        assert value.flatten().equal(new[name].flatten()[: value.numel()].cpu()), f"frozen weights of {name}"
    ni("inspect", "grown")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_all_stages_agree_with_the_local_engine(ni: NiProcesses, precision: str) -> None:
    """With NCCL, in one process."""
    common = ["small.yaml", f"train.precision={precision}", "train.log_every=1"]
    ni("train", *common, "--output", "local")
    # At stage 3 small parameters are sharded too.
    shard_all = "engine.deepspeed={zero_optimization: {stage3_param_persistence_threshold: 0}}"
    for stage in range(4):
        overrides = [f"engine.stage={stage}", *([shard_all] if stage == 3 else [])]
        ni("train", *common, "engine.use=zero", *overrides, "--output", f"stage-{stage}")
        tolerance = 1e-4 if precision == "fp32" else 0.03
        assert ni.loss_curve(f"stage-{stage}") == pytest.approx(ni.loss_curve("local"), rel=tolerance), f"stage {stage}"


@pytest.mark.parametrize("stage", [2, 3])
def test_optimizer_offloaded_to_the_cpu(ni: NiProcesses, stage: int) -> None:
    common = ["small.yaml", "train.log_every=1"]
    ni("train", *common, "--output", "local")
    ni("train", *common, "engine.use=zero", f"engine.stage={stage}", "engine.offload=cpu", "--output", "offloaded")
    assert ni.loss_curve("offloaded") == pytest.approx(ni.loss_curve("local"), rel=1e-4)
    ni("train", "--resume", "offloaded", "train.steps=9")


def test_bench_measures_every_layout(ni: NiProcesses) -> None:
    rows = ni("bench", "small.yaml", "train.precision=bf16", "--batch", "8", "--rounds", "2")["rows"]
    assert {row["execution"] for row in rows} >= {"dense", "packed", "compiled"}
    assert all(row["images_per_second"] > 0 for row in rows)
