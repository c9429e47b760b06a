"""A run that was stopped and went on is the run that never stopped, to the last bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ni_framework.checkpoint.run_dir import checkpoints_of
from ni_framework.contracts import hookimpl
from ni_framework.distributed.signals import Interrupted
from ni_framework.errors import CheckpointError, NIError, UsageError
from ni_framework.training.train import resume, train
from tests.helpers.small_recipe import rewritten, save_small, small_recipe

STEPS = 11
OPTIMIZER = [f"engine/optimizer/{kind}/" for kind in ("exp_avg", "exp_avg_sq", "step")]
# Everything random, accumulated parts, and lines of metrics that a checkpoint cuts in two.
OVERRIDES = (
    f"train.steps={STEPS}",
    "train.batch=256",  # of 1,400: an epoch ends in the middle of step 6, and another in that of step 11
    "train.accumulate=2",
    "train.log_every=4",
    "train.evaluate_every=3",
    "train.average=0.6",
    "model.router={use: function_dropout, keep: 0.7, inner: {use: quantised, size: 5, inner: stochastic_kernel}}",
)


class Stop:
    """Asks the run to stop after a step, as a scheduler would."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    @hookimpl
    def run_step(self, step: int, samples: int, values: Mapping[str, Tensor]) -> None:
        if step == self.step:
            os.kill(os.getpid(), self.number)


class Warnings:
    """Listens to warnings."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self.messages.append(message)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never stopped, with a checkpoint of each step."""
    folder = tmp_path_factory.mktemp("whole")
    train(small_recipe(folder, *OVERRIDES), folder / "run", every=1)
    return folder / "run"


def left_behind(run: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The last checkpoint's tensors as bytes, and every line of metrics but for warnings and the clock."""
    last = checkpoints_of(run)[-1]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    numbers = [
        {name: value for name, value in line.items() if name != "seconds"} for line in lines if "warning" not in line
    ]
    return {path.name: path.read_bytes() for path in last.glob("*.safetensors")}, numbers


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", range(1, STEPS))
def test_from_every_step(whole: Path, tmp_path: Path, step: int, workers: int) -> None:
    """Weights, averages, codebooks, optimizer, metrics, in a new folder; the old one stays as it was."""
    before = left_behind(whole)
    summary = resume(whole / "checkpoints" / f"step-{step:02}", [f"train.workers={workers}"], tmp_path / "run")
    assert left_behind(tmp_path / "run") == before == left_behind(whole)
    assert summary["metrics"]["test/accuracy"] == before[1][-1]["test/accuracy"]


def test_recomputing_what_chose_its_layout(tmp_path: Path) -> None:
    """`auto` counts and does not time, so it chooses again what it chose; recompute, begun on the way, changes no bit."""
    overrides = ("model.execution=auto", "model.router.truncation=0.9", "train.steps=5", "train.log_every=1")
    train(small_recipe(tmp_path, *overrides), tmp_path / "whole", every=1)
    before = left_behind(tmp_path / "whole")
    assert {line["routing/packed"] for line in before[1] if "routing/packed" in line} >= {1.0}
    resume(tmp_path / "whole" / "checkpoints" / "step-2", ["train.recompute=iteration"], tmp_path / "run")
    assert left_behind(tmp_path / "run") == before


def test_five_times_in_place(whole: Path, tmp_path: Path) -> None:
    """Stopped by a signal after steps 2, 3, 6, 9 and 11."""
    recipe = small_recipe(tmp_path, *OVERRIDES)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", listeners=[Stop(2)])
    for step in (3, 6, 9, 11):
        with pytest.raises(Interrupted) as caught:
            resume(tmp_path / "run", listeners=[Stop(step)])
        assert caught.value.exit_code == 75
    resume(tmp_path / "run")
    assert left_behind(tmp_path / "run") == left_behind(whole)


def test_steps_may_be_raised(tmp_path: Path) -> None:
    """With a constant rate, to what the longer run would have been."""
    overrides = (*OVERRIDES, "train.schedule={use: constant, warmup: 0}")
    train(small_recipe(tmp_path, *overrides, "train.steps=5", "train.log_every=5"), tmp_path / "short")
    longer = small_recipe(tmp_path, *overrides, "train.steps=9", "train.log_every=5")
    train(longer, tmp_path / "long")
    resume(tmp_path / "short", ["train.steps=9"])
    assert left_behind(tmp_path / "short")[0] == left_behind(tmp_path / "long")[0]
    assert [folder.name for folder in checkpoints_of(tmp_path / "short")] == ["step-5", "step-9"]


@pytest.mark.parametrize("part", [*OPTIMIZER, "engine/average/count", "engine/guard/", "means/sum/loss"])
def test_what_is_left_out_is_missed(whole: Path, tmp_path: Path, part: str) -> None:
    """Each part of the state counts: with zeros in its place the run becomes another."""
    shutil.copytree(whole / "checkpoints" / "step-06", tmp_path / "checkpoints" / "step-06")

    def change(tensors: dict[str, Tensor]) -> None:
        names = [name for name in tensors if name.startswith(part)]
        assert names
        for name in names:
            tensors[name] = torch.zeros_like(tensors[name])

    shutil.copy(whole / "metrics.jsonl", tmp_path)
    checkpoint = tmp_path / "checkpoints" / "step-06"
    tensors = load_file(checkpoint / "training.safetensors")
    change(tensors)
    rewritten(checkpoint, "training.safetensors", save(tensors))
    resume(tmp_path)
    assert left_behind(tmp_path) != left_behind(whole)


def test_an_average_that_is_left_out_is_missed(whole: Path, tmp_path: Path) -> None:
    """It cannot be had from the weights again."""
    shutil.copytree(whole / "checkpoints" / "step-06", tmp_path / "checkpoints" / "step-06")
    shutil.copy(whole / "metrics.jsonl", tmp_path)
    checkpoint = tmp_path / "checkpoints" / "step-06"
    rewritten(checkpoint, "average.safetensors", (checkpoint / "model.safetensors").read_bytes())
    resume(tmp_path)
    assert left_behind(tmp_path) != left_behind(whole)


def test_nothing_left_out_nothing_missed(whole: Path, tmp_path: Path) -> None:
    """The same copying without a change leads to the same bits: what the two tests above miss is what they left out."""
    shutil.copytree(whole / "checkpoints" / "step-06", tmp_path / "checkpoints" / "step-06")
    shutil.copy(whole / "metrics.jsonl", tmp_path)
    resume(tmp_path)
    assert left_behind(tmp_path) == left_behind(whole)


def test_a_damaged_checkpoint_is_passed_over(whole: Path, tmp_path: Path) -> None:
    """It is named, and the run goes on from the newest good one, in place."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "step-11")
    for name in ("step-10", "step-09"):
        weights = run / "checkpoints" / name / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    heard = Warnings()
    resume(run, listeners=[heard])
    assert heard.messages == [
        f"passed over a checkpoint: {run}/checkpoints/step-11: is missing, and was saved last; use another checkpoint",
        *(
            f"passed over a checkpoint: {run}/checkpoints/{name}/model.safetensors: is damaged (its checksum differs); "
            "use another checkpoint"
            for name in ("step-10", "step-09")
        ),
    ]
    assert left_behind(run) == left_behind(whole)


def test_nothing_to_go_on_from(whole: Path, tmp_path: Path) -> None:
    """Each is said, and nothing is written."""
    recipe = small_recipe(tmp_path)
    save_small(tmp_path / "early" / "checkpoints" / "step-3", recipe, 3)
    weights = tmp_path / "early" / "checkpoints" / "step-3" / "model.safetensors"
    weights.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    shutil.copytree(whole / "checkpoints" / "step-05", tmp_path / "copied")
    cases: dict[tuple[str, ...], tuple[type[NIError], str]] = {
        (str(tmp_path / "none"),): (CheckpointError, "there is no such checkpoint"),
        (str(tmp_path / "empty"),): (CheckpointError, "holds no checkpoint"),
        (str(tmp_path / "early"),): (CheckpointError, "none of its checkpoints is whole"),
        (str(whole),): (UsageError, f"has done all of its {STEPS} steps; raise train.steps to go on"),
        (str(whole), "train.steps=4"): (UsageError, "has done 11 steps already, more than train.steps=4; raise it"),
        (str(tmp_path / "copied"),): (UsageError, "copied: lies in no run folder; name a new one with --output"),
        (str(whole / "checkpoints" / "step-05"),): (
            UsageError,
            "step-05: its run has gone on to step-11; name a new run",
        ),
        (str(whole), "seed=4"): (UsageError, "seed=4: a resumed run goes on as it began; only train.steps"),
    }
    for (path, *overrides), (kind, said) in cases.items():
        with pytest.raises(kind) as caught:
            resume(path, overrides)
        assert said in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_processes_that_are_lost_are_no_fault_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That another process is gone is told as such, and not as a checkpoint that holds nothing."""
    train(small_recipe(tmp_path), tmp_path / "run")

    def fails(*arguments: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711")

    monkeypatch.setattr("ni_framework.engines.local.LocalEngine.load_optimizer_state", fails)
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        resume(tmp_path / "run", ["train.steps=7"])
