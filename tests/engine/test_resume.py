"""A run that was stopped and went on is the run that never stopped, to the last bit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ni_framework.contracts import hookimpl
from ni_framework.engine.checkpoint import checkpoints_of, save_checkpoint
from ni_framework.engine.interrupt import Interrupted
from ni_framework.engine.resume import find_resumption
from ni_framework.engine.trainer import resume, train
from ni_framework.errors import CheckpointError, NIError, UsageError
from ni_framework.model.compose import build_model
from tests.engine.small import small_recipe

STEPS = 11
# Everything random, accumulated parts, and lines of metrics that a checkpoint cuts in two.
OVERRIDES = (
    f"train.steps={STEPS}",
    "train.accumulate=2",
    "train.log_every=4",
    "train.evaluate_every=3",
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
    """The last checkpoint's tensors as bytes, and every line of metrics but for the clock."""
    last = checkpoints_of(run)[-1]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return {name: (last / name).read_bytes() for name in ("model.safetensors", "training.safetensors")}, lines


@pytest.mark.parametrize("step", range(1, STEPS))
def test_from_every_step(whole: Path, tmp_path: Path, step: int) -> None:
    """Weights, codebooks, optimizer, metrics, in a new folder; the old one stays as it was."""
    before = left_behind(whole)
    resumption = find_resumption(str(whole / "checkpoints" / f"step-{step:02}"))
    assert resumption.run is None
    summary = resume(resumption, tmp_path / "run")
    found, expected = left_behind(tmp_path / "run"), left_behind(whole)
    assert found[0] == expected[0]
    kept = [line for line in expected[1] if line["step"] > step]
    assert found[1] == kept  # a checkpoint without its run has no earlier lines
    assert before == expected
    assert summary["metrics"]["test/accuracy"] == expected[1][-1]["test/accuracy"]


def test_five_times_in_place(whole: Path, tmp_path: Path) -> None:
    """Stopped by a signal after steps 2, 3, 6, 9 and 11."""
    recipe = small_recipe(tmp_path, *OVERRIDES)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", listeners=[Stop(2)])
    for step in (3, 6, 9, 11):
        resumption = find_resumption(str(tmp_path / "run"))
        assert resumption.run == tmp_path / "run"
        with pytest.raises(Interrupted) as caught:
            resume(resumption, tmp_path / "run", listeners=[Stop(step)])
        assert caught.value.exit_code == 75
    resume(find_resumption(str(tmp_path / "run")), tmp_path / "run")
    assert left_behind(tmp_path / "run") == left_behind(whole)


def test_steps_may_be_raised(tmp_path: Path) -> None:
    """With a constant rate, to what the longer run would have been."""
    overrides = (*OVERRIDES, "train.schedule={use: constant, warmup: 0}")
    train(small_recipe(tmp_path, *overrides, "train.steps=5", "train.log_every=5"), tmp_path / "short")
    longer = small_recipe(tmp_path, *overrides, "train.steps=9", "train.log_every=5")
    train(longer, tmp_path / "long")
    resume(find_resumption(str(tmp_path / "short"), ["train.steps=9"]), tmp_path / "short")
    assert left_behind(tmp_path / "short")[0] == left_behind(tmp_path / "long")[0]
    assert [folder.name for folder in checkpoints_of(tmp_path / "short")] == ["step-5", "step-9"]


def rewritten(checkpoint: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """A checkpoint whose training state is another, with a checksum that agrees."""
    tensors = load_file(checkpoint / "training.safetensors")
    change(tensors)
    content = save(tensors)
    (checkpoint / "training.safetensors").write_bytes(content)
    manifest = json.loads((checkpoint / "checkpoint.json").read_text())
    manifest["files"]["training.safetensors"] = hashlib.sha256(content).hexdigest()
    (checkpoint / "checkpoint.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("part", ["engine/exp_avg/", "engine/exp_avg_sq/", "engine/step/", "means/sum/loss"])
def test_what_is_left_out_is_missed(whole: Path, tmp_path: Path, part: str) -> None:
    """Each part of the state counts: with zeros in its place the run becomes another."""
    shutil.copytree(whole / "checkpoints" / "step-06", tmp_path / "checkpoints" / "step-06")

    def change(tensors: dict[str, Tensor]) -> None:
        names = [name for name in tensors if name.startswith(part)]
        assert names
        for name in names:
            tensors[name] = torch.zeros_like(tensors[name])

    rewritten(tmp_path / "checkpoints" / "step-06", change)
    resume(find_resumption(str(tmp_path)), tmp_path)
    found, expected = left_behind(tmp_path), left_behind(whole)
    assert (found[0], found[1]) != (expected[0], [line for line in expected[1] if line["step"] > 6])


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
    resumption = find_resumption(str(run))
    assert (resumption.step, resumption.run) == (8, run)
    heard = Warnings()
    resume(resumption, run, listeners=[heard])
    assert [f"step-{number}" in message for number, message in zip(("10", "09"), heard.messages, strict=True)]
    assert all("is damaged (its checksum differs)" in message for message in heard.messages)
    assert left_behind(run) == left_behind(whole)


def test_nothing_to_go_on_from(whole: Path, tmp_path: Path) -> None:
    """Each is said, and nothing is written."""
    recipe = small_recipe(tmp_path)
    save_checkpoint(tmp_path / "early" / "checkpoints" / "step-3", build_model(recipe), recipe, 3, {})
    weights = tmp_path / "early" / "checkpoints" / "step-3" / "model.safetensors"
    weights.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    cases: dict[tuple[str, ...], tuple[type[NIError], str]] = {
        (str(tmp_path / "none"),): (CheckpointError, "there is no such checkpoint"),
        (str(tmp_path / "empty"),): (CheckpointError, "holds no checkpoint"),
        (str(tmp_path / "early"),): (CheckpointError, "none of its checkpoints is whole"),
        (str(whole),): (UsageError, f"has done all of its {STEPS} steps; raise train.steps to go on"),
        (str(whole), "train.steps=4"): (UsageError, "has done 11 steps already, more than train.steps=4; raise it"),
        (str(whole), "seed=4"): (UsageError, "seed=4: a resumed run goes on as it began; only train.steps"),
    }
    for (path, *overrides), (kind, said) in cases.items():
        with pytest.raises(kind) as caught:
            find_resumption(path, overrides)
        assert said in str(caught.value)
    copied = tmp_path / "copied"
    shutil.copytree(whole / "checkpoints" / "step-05", copied)
    assert find_resumption(str(copied)).run is None
    assert not (tmp_path / "none").exists()
