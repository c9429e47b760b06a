"""What a GPU computes is what the CPU computes, up to rounding: `NI_GPU=1 pytest tests/gpu`.

The other tests compare bits, and see no GPU (`tests/conftest.py`).
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
from ni_framework.data.batch import to
from ni_framework.engines.local import LocalEngine
from tests.helpers.small_recipe import TEXT

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no GPU here, or NI_GPU=1 does not ask for it"
)
ROOT = Path(__file__).parents[2]
STEPS = 5


def losses(path: str, overrides: Sequence[str], device: str) -> list[float]:
    """Of the first steps on random images, the same on every device."""
    recipe = load_recipe(ROOT / "recipes" / path, overrides)
    engine = LocalEngine(build_model(recipe, device), recipe)
    batch = to(random_batch(engine, 16), engine.device)
    return [engine.step(step, batch, trace=False).values["loss"].item() for step in range(STEPS)]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.execution=dense"],
        ["model.execution=packed", "model.router.truncation=1.0"],
        ["model.execution=auto", "model.router=stochastic_kernel", "train.accumulate=2"],
        ["train.recompute=iteration", "model.scripts=2", "train.average=0.9"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("recipe", ["digits.yaml", "digits_multitask.yaml"])
def test_first_steps_are_those_of_the_cpu(recipe: str, overrides: list[str]) -> None:
    assert losses(recipe, overrides, "cuda") == pytest.approx(losses(recipe, overrides, "cpu"), rel=1e-3)


@pytest.mark.parametrize("execution", ["dense", "packed"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near(precision: str, execution: str) -> None:
    overrides = [f"model.execution={execution}", "model.router.truncation=1.0"]
    half = losses("digits.yaml", [*overrides, f"train.precision={precision}"], "cuda")
    assert half == pytest.approx(losses("digits.yaml", overrides, "cpu"), rel=0.05)


@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("execution", ["dense", "packed"])
def test_compiled_training_is_training(execution: str, precision: str) -> None:
    torch.compiler.reset()
    overrides = [f"model.execution={execution}", "model.router.truncation=1.0", f"train.precision={precision}"]
    compiled = losses("digits.yaml", [*overrides, "engine.compile=true"], "cuda")
    assert compiled == pytest.approx(
        losses("digits.yaml", overrides, "cuda"), rel=1e-3 if precision == "fp32" else 0.05
    )


class Runs:
    """Runs of the command `ni` in a folder, in processes of their own; with a GPU, or without."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "small.yaml").write_text(TEXT)

    def __call__(self, *arguments: object, gpu: bool = True) -> Any:
        environment = os.environ if gpu else os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "ni_framework", *map(str, arguments), "--json"]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def curve(self, run: str) -> list[float]:
        """Losses in the order of steps."""
        lines = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.fixture
def ni(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_a_run_goes_on_here_and_elsewhere(ni: Runs) -> None:
    """Trained on a GPU, resumed there and on the CPU; evaluated, verified, grown and inspected on either."""
    recipe = ("small.yaml", "train.average=0.9", "train.schedule={use: constant, warmup: 0}")
    of_all = ni("train", *recipe, "train.steps=12", "--output", "whole")["metrics"]
    ni("train", *recipe, "train.steps=6", "--output", "half")
    ni("verify", "half", gpu=False)
    rest = ni("train", "--resume", "half", "train.steps=12")["metrics"]
    assert rest["test/loss"] == pytest.approx(of_all["test/loss"], rel=1e-4)
    assert ni("eval", "half", gpu=False)["metrics"]["test/loss"] == pytest.approx(rest["test/loss"], rel=1e-4)
    ni("verify", "half")
    grown = ni("grow", "half", "--add", "2", "--body", "lines_of_code", "--freeze", "old", "--output", "grown")
    assert max(grown["change"].values()) < 1e-5, grown
    ni("train", "--resume", "grown", "train.steps=18")
    ni("train", "--resume", "grown", "train.steps=24", gpu=False)
    old, new = (dict(load_model(ni.folder / run).named_parameters()) for run in ("half", "grown"))
    assert all(value.flatten().equal(new[name].flatten()[: value.numel()].cpu()) for name, value in old.items())
    ni("inspect", "grown")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_all_stages_agree_with_the_local_engine(ni: Runs, precision: str) -> None:
    """Real NCCL in one process."""
    common = ["small.yaml", f"train.precision={precision}", "train.log_every=1"]
    ni("train", *common, "--output", "local")
    divided = "engine.deepspeed={zero_optimization: {stage3_param_persistence_threshold: 0}}"  # small ones too
    for stage in range(4):
        where = [f"engine.stage={stage}", *([divided] if stage == 3 else [])]
        ni("train", *common, "engine.use=zero", *where, "--output", f"stage-{stage}")
        within = 1e-4 if precision == "fp32" else 0.03
        assert ni.curve(f"stage-{stage}") == pytest.approx(ni.curve("local"), rel=within), stage


@pytest.mark.parametrize("stage", [2, 3])
def test_optimizer_beside_the_gpu(ni: Runs, stage: int) -> None:
    common = ["small.yaml", "train.log_every=1"]
    ni("train", *common, "--output", "local")
    ni("train", *common, "engine.use=zero", f"engine.stage={stage}", "engine.offload=cpu", "--output", "beside")
    assert ni.curve("beside") == pytest.approx(ni.curve("local"), rel=1e-4)
    ni("train", "--resume", "beside", "train.steps=9")


def test_bench(ni: Runs) -> None:
    rows = ni("bench", "small.yaml", "train.precision=bf16", "--batch", "8", "--rounds", "2")["rows"]
    assert {row["execution"] for row in rows} >= {"dense", "packed", "compiled"}
    assert all(row["images_per_second"] > 0 for row in rows)
