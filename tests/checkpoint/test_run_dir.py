"""A run folder: its lock, its name, and what is left in it if a run fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ni_framework.checkpoint import run_dir
from ni_framework.checkpoint.run_dir import find_latest_valid, list_checkpoints, new_run_dir, run_lock
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import FitError, RunError
from ni_framework.training.train import train
from tests.checkpoint.test_resume import WarningCollector
from tests.helpers.small_recipe import load_small_recipe


def test_run_folder_is_locked_once(tmp_path: Path) -> None:
    """The lock is released, an empty folder is removed, and what an interrupted process has left in it is cleared."""
    run = tmp_path / "run"
    with run_lock(run), pytest.raises(RunError) as caught, run_lock(run):
        pass
    assert str(caught.value) == (
        f"{run}: another process is using this run folder; wait for it to end, or name another --output"
    )
    assert not run.exists(), "an empty folder is left"
    (run / "checkpoints" / ".step-3.0123abcd.new").mkdir(parents=True)
    (run / ".recipe.yaml.0123abcd.new").write_text("")
    (run / "checkpoints" / ".step-2.0123abcd.old").mkdir()
    (run / "checkpoints" / ".other").mkdir()
    with run_lock(run):
        assert sorted(path.name for path in run.rglob("*")) == [".lock", ".other", "checkpoints", "step-2"]


def test_new_runs_have_different_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also runs that start in the same second."""
    monkeypatch.chdir(tmp_path)
    runs = []
    for _ in range(3):
        runs.append(new_run_dir("digits"))
        runs[-1].mkdir(parents=True)
    assert len(set(runs)) == 3
    assert {run.parent for run in runs} == {Path("runs/digits")}


def test_failed_start_leaves_no_run(tmp_path: Path) -> None:
    """If metrics have been written, a new start in the same folder replaces them; else there is no folder."""
    run = tmp_path / "run"
    with pytest.raises(RunError, match="every pair of function and element is closed"):
        train(load_small_recipe(tmp_path, "model.router.truncation=1.0e-6"), run)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    # As if the process had been killed during its first save.
    (run / "checkpoints" / ".step-2.0123abcd.new").mkdir(parents=True)
    train(load_small_recipe(tmp_path), run)
    assert [line[:10] for line in (run / "metrics.jsonl").read_text().splitlines()][:2] == ['{"step": 0', '{"step": 2']
    absent = load_small_recipe(tmp_path, "data={use: npz, file: absent.npz, classes: 10, image: [1, 8, 8]}")
    with pytest.raises(RunError):
        train(absent, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_failed_removal_of_old_checkpoint_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run continues."""

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(run_dir, "remove_folder", refuse)
    collector = WarningCollector()
    train(
        load_small_recipe(tmp_path, "train.steps=3"),
        tmp_path / "run",
        checkpoint_every=1,
        keep_last=2,
        listeners=[collector],
    )
    assert collector.messages == [
        f"an old checkpoint could not be removed: Permission denied ({tmp_path}/run/checkpoints/step-1)"
    ]
    assert len(list_checkpoints(tmp_path / "run")) == 3


TRAINING_FAILURES: dict[str, tuple[Exception, type[Exception], str]] = {
    "memory": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore"),
        FitError,
        "step 4: does not fit this machine: CUDA out of memory. Tried to allocate 9 GiB; "
        "set train.activation_checkpointing=iteration, raise train.micro_batches, or lower train.batch",
    ),
    "a plugin's own": (KeyError("nonsense"), KeyError, "'nonsense'"),
    "a file": (
        OSError(5, "Input/output error", "photos/7.png"),
        RunError,
        "step 3: Input/output error (photos/7.png); the last checkpoint is {run}/checkpoints/step-3; fix this and continue "
        "with ni train --resume {run}",
    ),
}


@pytest.mark.parametrize("name", TRAINING_FAILURES)
def test_last_step_is_saved_when_training_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Before the error is raised; not if an update fails half-way, because weights and step would not agree."""
    error, error_class, text = TRAINING_FAILURES[name]
    for method, saved in (("_loss_and_metrics", True), ("_optimizer_step", False)):
        run = tmp_path / method
        original = getattr(LocalEngine, method)

        def fails(engine: LocalEngine, *arguments: Any, original: Any = original, method: str = method) -> Any:
            if engine.guard.num_losses + (method == "_loss_and_metrics") > 3:
                raise error
            return original(engine, *arguments)

        with monkeypatch.context() as context:
            context.setattr(LocalEngine, method, fails)
            with pytest.raises(error_class) as caught:
                train(load_small_recipe(tmp_path), run)
        assert bool(list_checkpoints(run)) == saved
        if saved:
            assert str(caught.value) == text.format(run=run)
            assert find_latest_valid(run)[1].step == 3


def test_disk_error_before_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error reports that nothing was saved yet."""

    def refuse(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("ni_framework.utils.atomic_files.write_new", refuse)
    monkeypatch.setattr("ni_framework.checkpoint.save.write_new", refuse)
    monkeypatch.setattr("ni_framework.training.loop.atomic_write", lambda *_: None)
    with pytest.raises(RunError) as caught:
        train(load_small_recipe(tmp_path), tmp_path / "run")
    assert str(caught.value) == ("step 6: No space left on device; nothing was saved yet; fix this and train again")
