"""A run that was stopped and resumed is bit-identical to a run that was never stopped."""

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

from ni_framework.checkpoint.run_dir import list_checkpoints
from ni_framework.contracts import hookimpl
from ni_framework.distributed.signals import RunInterrupted
from ni_framework.errors import CheckpointError, NIError, UsageError
from ni_framework.training.train import resume, train
from tests.helpers.small_recipe import load_small_recipe, rewrite_checkpoint_file, save_small_checkpoint

TOTAL_STEPS = 11
OPTIMIZER_PREFIXES = [f"engine/optimizer/{kind}/" for kind in ("exp_avg", "exp_avg_sq", "step")]
# All sources of randomness, several micro-batches, and checkpoints in the middle of a line of metrics.
RANDOM_RUN_OVERRIDES = (
    f"train.steps={TOTAL_STEPS}",
    # Of 1,400 samples: one epoch ends in the middle of step 6, the next in the middle of step 11.
    "train.batch=256",
    "train.micro_batches=2",
    "train.log_every=4",
    "train.evaluate_every=3",
    "train.ema_decay=0.6",
    "model.router={use: function_dropout, keep: 0.7, inner: {use: quantised, size: 5, inner: stochastic_kernel}}",
)


class StopAtStep:
    """Sends a stop signal after a step, as a scheduler would."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    @hookimpl
    def run_step(self, step: int, samples: int, values: Mapping[str, Tensor]) -> None:
        if step == self.step:
            os.kill(os.getpid(), self.number)


class WarningCollector:
    """Collects the warnings of a run."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self.messages.append(message)


@pytest.fixture(scope="module")
def uninterrupted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped, with a checkpoint at each step."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(load_small_recipe(folder, *RANDOM_RUN_OVERRIDES), folder / "run", checkpoint_every=1)
    return folder / "run"


def read_final_state(run: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Returns the tensor files of the last checkpoint, and every line of metrics without warnings and times."""
    last = list_checkpoints(run)[-1]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    numbers = [
        {name: value for name, value in line.items() if name != "seconds"} for line in lines if "warning" not in line
    ]
    return {path.name: path.read_bytes() for path in last.glob("*.safetensors")}, numbers


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", range(1, TOTAL_STEPS))
def test_resume_from_every_step(uninterrupted_run: Path, tmp_path: Path, step: int, workers: int) -> None:
    """All tensors and metrics are the same, in a new folder, and the old folder is unchanged."""
    before = read_final_state(uninterrupted_run)
    summary = resume(
        uninterrupted_run / "checkpoints" / f"step-{step:02}", [f"train.workers={workers}"], tmp_path / "run"
    )
    assert read_final_state(tmp_path / "run") == before == read_final_state(uninterrupted_run)
    assert summary["metrics"]["test/accuracy"] == before[1][-1]["test/accuracy"]


def test_resume_with_automatic_layout_and_activation_checkpointing(tmp_path: Path) -> None:
    """`auto` chooses by counts, not by times, so it repeats its choice; activation checkpointing changes no bit."""
    overrides = ("model.execution=auto", "model.router.truncation=0.9", "train.steps=5", "train.log_every=1")
    train(load_small_recipe(tmp_path, *overrides), tmp_path / "uninterrupted", checkpoint_every=1)
    before = read_final_state(tmp_path / "uninterrupted")
    assert {line["routing/packed"] for line in before[1] if "routing/packed" in line} >= {1.0}
    resume(
        tmp_path / "uninterrupted" / "checkpoints" / "step-2",
        ["train.activation_checkpointing=iteration"],
        tmp_path / "run",
    )
    assert read_final_state(tmp_path / "run") == before


def test_repeated_resume_in_place(uninterrupted_run: Path, tmp_path: Path) -> None:
    """The run is stopped by a signal after steps 2, 3, 6, 9 and 11."""
    recipe = load_small_recipe(tmp_path, *RANDOM_RUN_OVERRIDES)
    with pytest.raises(RunInterrupted):
        train(recipe, tmp_path / "run", listeners=[StopAtStep(2)])
    for step in (3, 6, 9, 11):
        with pytest.raises(RunInterrupted) as caught:
            resume(tmp_path / "run", listeners=[StopAtStep(step)])
        assert caught.value.exit_code == 75
    resume(tmp_path / "run")
    assert read_final_state(tmp_path / "run") == read_final_state(uninterrupted_run)


def test_resume_with_more_steps(tmp_path: Path) -> None:
    """With a constant learning rate the result is that of a longer run."""
    overrides = (*RANDOM_RUN_OVERRIDES, "train.schedule={use: constant, warmup: 0}")
    train(load_small_recipe(tmp_path, *overrides, "train.steps=5", "train.log_every=5"), tmp_path / "short")
    longer = load_small_recipe(tmp_path, *overrides, "train.steps=9", "train.log_every=5")
    train(longer, tmp_path / "long")
    resume(tmp_path / "short", ["train.steps=9"])
    assert read_final_state(tmp_path / "short")[0] == read_final_state(tmp_path / "long")[0]
    assert [folder.name for folder in list_checkpoints(tmp_path / "short")] == ["step-5", "step-9"]


@pytest.mark.parametrize("part", [*OPTIMIZER_PREFIXES, "engine/average/count", "engine/guard/", "means/sum/loss"])
def test_every_part_of_training_state_is_needed(uninterrupted_run: Path, tmp_path: Path, part: str) -> None:
    """With zeros in place of one part of the state, the run differs."""
    shutil.copytree(uninterrupted_run / "checkpoints" / "step-06", tmp_path / "checkpoints" / "step-06")
    shutil.copy(uninterrupted_run / "metrics.jsonl", tmp_path)
    checkpoint = tmp_path / "checkpoints" / "step-06"
    tensors = load_file(checkpoint / "training.safetensors")
    names = [name for name in tensors if name.startswith(part)]
    assert names
    for name in names:
        tensors[name] = torch.zeros_like(tensors[name])
    rewrite_checkpoint_file(checkpoint, "training.safetensors", save(tensors))
    resume(tmp_path)
    assert read_final_state(tmp_path) != read_final_state(uninterrupted_run)


def test_ema_state_is_needed(uninterrupted_run: Path, tmp_path: Path) -> None:
    """The EMA weights cannot be computed from the weights."""
    shutil.copytree(uninterrupted_run / "checkpoints" / "step-06", tmp_path / "checkpoints" / "step-06")
    shutil.copy(uninterrupted_run / "metrics.jsonl", tmp_path)
    checkpoint = tmp_path / "checkpoints" / "step-06"
    rewrite_checkpoint_file(checkpoint, "average.safetensors", (checkpoint / "model.safetensors").read_bytes())
    resume(tmp_path)
    assert read_final_state(tmp_path) != read_final_state(uninterrupted_run)


def test_unmodified_checkpoint_resumes_bit_identically(uninterrupted_run: Path, tmp_path: Path) -> None:
    """A control for the two tests above: the same copy without a change gives the same bits."""
    shutil.copytree(uninterrupted_run / "checkpoints" / "step-06", tmp_path / "checkpoints" / "step-06")
    shutil.copy(uninterrupted_run / "metrics.jsonl", tmp_path)
    resume(tmp_path)
    assert read_final_state(tmp_path) == read_final_state(uninterrupted_run)


def test_damaged_checkpoint_is_skipped(uninterrupted_run: Path, tmp_path: Path) -> None:
    """A warning names it, and the run is resumed in place from the newest intact one."""
    run = tmp_path / "run"
    shutil.copytree(uninterrupted_run, run)
    shutil.rmtree(run / "checkpoints" / "step-11")
    for name in ("step-10", "step-09"):
        weights = run / "checkpoints" / name / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    collector = WarningCollector()
    resume(run, listeners=[collector])
    assert collector.messages == [
        f"skipped a checkpoint: {run}/checkpoints/step-11: is missing, although it was saved last; use another checkpoint",
        *(
            f"skipped a checkpoint: {run}/checkpoints/{name}/model.safetensors: is damaged (its checksum differs); "
            "use another checkpoint"
            for name in ("step-10", "step-09")
        ),
    ]
    assert read_final_state(run) == read_final_state(uninterrupted_run)


def test_resume_errors(uninterrupted_run: Path, tmp_path: Path) -> None:
    """Each reason why a run cannot be resumed has its message, and nothing is written."""
    recipe = load_small_recipe(tmp_path)
    save_small_checkpoint(tmp_path / "early" / "checkpoints" / "step-3", recipe, 3)
    weights = tmp_path / "early" / "checkpoints" / "step-3" / "model.safetensors"
    weights.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    shutil.copytree(uninterrupted_run / "checkpoints" / "step-05", tmp_path / "copied")
    cases: dict[tuple[str, ...], tuple[type[NIError], str]] = {
        (str(tmp_path / "none"),): (CheckpointError, "there is no such checkpoint"),
        (str(tmp_path / "empty"),): (CheckpointError, "contains no checkpoint"),
        (str(tmp_path / "early"),): (CheckpointError, "none of its checkpoints is intact"),
        (str(uninterrupted_run),): (
            UsageError,
            f"has done all of its {TOTAL_STEPS} steps; raise train.steps to continue",
        ),
        (str(uninterrupted_run), "train.steps=4"): (
            UsageError,
            "has done 11 steps already, more than train.steps=4; raise it",
        ),
        (str(tmp_path / "copied"),): (UsageError, "copied: is in no run folder; name a new one with --output"),
        (str(uninterrupted_run / "checkpoints" / "step-05"),): (
            UsageError,
            "step-05: its run has the later checkpoint step-11; name a new run",
        ),
        (str(uninterrupted_run), "seed=4"): (UsageError, "seed=4: a resumed run keeps its settings; only train.steps"),
    }
    for (path, *overrides), (error_class, message) in cases.items():
        with pytest.raises(error_class) as caught:
            resume(path, overrides)
        assert message in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_lost_connection_is_not_reported_as_a_damaged_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost connection to another rank while loading is raised unchanged."""
    train(load_small_recipe(tmp_path), tmp_path / "run")

    def fails(*arguments: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711")

    monkeypatch.setattr("ni_framework.engines.local.LocalEngine.load_optimizer_state", fails)
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        resume(tmp_path / "run", ["train.steps=7"])
