"""A run folder: whose it is, what its name is, and what is left in it when nothing comes of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ni_framework.checkpoint import run_dir
from ni_framework.checkpoint.run_dir import checkpoints_of, locked, new_run, newest_good
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import FitError, RunError
from ni_framework.training.train import train
from tests.checkpoint.test_resume import Warnings
from tests.helpers.small_recipe import small_recipe


def test_a_folder_is_held_once(tmp_path: Path) -> None:
    """And is free again, without what a stopped process has left in it."""
    run = tmp_path / "run"
    with locked(run), pytest.raises(RunError) as caught, locked(run):
        pass
    assert str(caught.value) == (
        f"{run}: another process is at work in this run folder; wait for it, or name another --output"
    )
    assert not run.exists()  # nothing came of it
    litter = run / "checkpoints" / ".step-3.0123abcd.new"
    litter.mkdir(parents=True)
    (run / ".recipe.yaml.0123abcd.new").write_text("")
    (run / "checkpoints" / ".step-2.0123abcd.old").mkdir()
    (run / "checkpoints" / ".mine").mkdir()
    with locked(run):
        assert sorted(path.name for path in run.rglob("*")) == [".lock", ".mine", "checkpoints", "step-2"]


def test_new_runs_have_new_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within one second."""
    monkeypatch.chdir(tmp_path)
    runs = []
    for _ in range(3):
        runs.append(new_run("digits"))
        runs[-1].mkdir(parents=True)
    assert len(set(runs)) == 3
    assert {run.parent for run in runs} == {Path("runs/digits")}


def test_a_run_that_does_not_start_leaves_nothing(tmp_path: Path) -> None:
    """No folder; and where it got to its first lines, a new start in the folder begins with new ones."""
    run = tmp_path / "run"
    with pytest.raises(RunError, match="every pair of function and element is closed"):
        train(small_recipe(tmp_path, "model.router.truncation=1.0e-6"), run)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    (run / "checkpoints" / ".step-2.0123abcd.new").mkdir(parents=True)  # stopped in the middle of its first save
    train(small_recipe(tmp_path), run)
    assert [line[:10] for line in (run / "metrics.jsonl").read_text().splitlines()][:2] == ['{"step": 0', '{"step": 2']
    absent = small_recipe(tmp_path, "data={use: npz, file: absent.npz, classes: 10, image: [1, 8, 8]}")
    with pytest.raises(RunError):
        train(absent, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_removed_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told."""

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(run_dir, "remove_folder", refuse)
    heard = Warnings()
    train(small_recipe(tmp_path, "train.steps=3"), tmp_path / "run", every=1, keep=2, listeners=[heard])
    assert heard.messages == [
        f"an old checkpoint could not be removed: Permission denied ({tmp_path}/run/checkpoints/step-1)"
    ]
    assert len(checkpoints_of(tmp_path / "run")) == 3


FAILURES: dict[str, tuple[Exception, type[Exception], str]] = {
    "memory": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore"),
        FitError,
        "step 4: does not fit this machine: CUDA out of memory. Tried to allocate 9 GiB; "
        "set train.recompute=iteration, raise train.accumulate, or lower train.batch",
    ),
    "a plugin's own": (KeyError("nonsense"), KeyError, "'nonsense'"),
    "a file": (
        OSError(5, "Input/output error", "photos/7.png"),
        RunError,
        "step 3: Input/output error (photos/7.png); the last checkpoint is {run}/checkpoints/step-3; mend that and go on "
        "with ni train --resume {run}",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_whatever_fails_the_last_step_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Before the error is told; in the middle of an update nothing is saved, since weights and step would not agree."""
    error, kind, text = FAILURES[name]
    for method, saved in (("_answers", True), ("_take", False)):
        run = tmp_path / method
        original = getattr(LocalEngine, method)

        def fails(engine: LocalEngine, *arguments: Any, original: Any = original, method: str = method) -> Any:
            if engine.guard.seen + (method == "_answers") > 3:
                raise error
            return original(engine, *arguments)

        with monkeypatch.context() as context:
            context.setattr(LocalEngine, method, fails)
            with pytest.raises(kind) as caught:
                train(small_recipe(tmp_path), run)
        assert bool(checkpoints_of(run)) == saved
        if saved:
            assert str(caught.value) == text.format(run=run)
            assert newest_good(run)[1].step == 3


def test_an_error_of_the_disk_with_nothing_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says so."""

    def refuse(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("ni_framework.utils.atomic_files.write_file", refuse)
    monkeypatch.setattr("ni_framework.checkpoint.save.write_file", refuse)
    monkeypatch.setattr("ni_framework.training.loop.replace_file", lambda *_: None)
    with pytest.raises(RunError) as caught:
        train(small_recipe(tmp_path), tmp_path / "run")
    assert str(caught.value) == ("step 6: No space left on device; nothing was saved yet; mend that and train again")
