"""`ni train --tensorboard`: the event files contain the measured values, and training is unchanged."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import pytest

from ni_framework.cli.tensorboard import TensorBoardListener
from tests.cli.conftest import RunNi
from tests.helpers.small_recipe import load_small_recipe


def load_event_files(folder: Path) -> Any:
    """Reads the event files of a folder with TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Reads every scalar in the event files of a folder."""
    events = load_event_files(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def read_texts(folder: Path, tag: str) -> list[tuple[int, str]]:
    """Reads every text with a tag in the event files of a folder."""
    tensors = load_event_files(folder).Tensors(f"{tag}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in tensors]


def read_metric_lines(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """Reads every number of a metrics file."""
    series: dict[str, list[tuple[int, Any]]] = {}
    for text in (run / "metrics.jsonl").read_text().splitlines():
        line: dict[str, Any] = json.loads(text)
        for name, value in line.items():
            if name not in ("step", "seconds", "warning"):
                series.setdefault(name, []).append((line["step"], pytest.approx(value, rel=1e-6)))
    return series


def test_scalars_match_metrics(ni: RunNi, small_recipe_dir: Path) -> None:
    """The scalars are those of the metrics file, also after the run was resumed in place: no step occurs twice."""
    pytest.importorskip("tensorboard")
    assert ni("train", "small.yaml", "--output", "plain").code == 0
    result = ni("train", "small.yaml", "--output", "run", "--tensorboard", "--every", 2)
    assert result.code == 0, result.err
    weights = [
        (small_recipe_dir / run / "checkpoints/step-6/model.safetensors").read_bytes() for run in ("plain", "run")
    ]
    assert weights[0] == weights[1], "writing event files must not change training"
    assert read_scalars(small_recipe_dir / "run" / "tensorboard") == read_metric_lines(small_recipe_dir / "run")
    (small_recipe_dir / "run/checkpoints/latest").unlink()
    for step in (4, 6):
        (small_recipe_dir / f"run/checkpoints/step-{step}").rename(small_recipe_dir / f"step-{step}")
    assert ni("train", "--resume", "run", "--tensorboard").code == 0
    assert read_scalars(small_recipe_dir / "run" / "tensorboard") == read_metric_lines(small_recipe_dir / "run")


def test_warning_at_resumed_step(ni: RunNi, small_recipe_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning at the step of the checkpoint hides no metric of that step; warning and recipe are written as text."""
    pytest.importorskip("tensorboard")
    run = small_recipe_dir / "run"
    assert ni("train", "small.yaml", "train.steps=4", "--output", "run", "--tensorboard").code == 0
    monkeypatch.setattr("ni_framework.training.loop.compare_lockfiles", lambda *_: ["torch 1 is 2"])
    assert ni("train", "--resume", "run", "train.steps=6", "--tensorboard").code == 0
    assert [step for step, _ in read_scalars(run / "tensorboard")["train/loss"]] == [2, 4, 6]
    assert read_scalars(run / "tensorboard") == read_metric_lines(run)
    ((step, warning),) = read_texts(run / "tensorboard", "warning")
    assert step == 4
    assert warning.endswith("may continue differently: torch 1 is 2")
    assert (run / "recipe.yaml").read_text() in read_texts(run / "tensorboard", "recipe")[-1][1]


def test_lines_of_resumed_step_are_rewritten(tmp_path: Path) -> None:
    """Warnings and values that are not finite are written again for the resumed step; an incomplete line is skipped."""
    pytest.importorskip("tensorboard")
    lines = [
        '{"step": 2, "seconds": 1, "loss": null}',
        '{"step": 2, "seconds": 1, "warning": "odd"}',
        '{"step": 3, "se',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    with TensorBoardListener() as board:
        board.run_start(str(tmp_path), load_small_recipe(tmp_path), 1)
        board.run_evaluation(2, {"test/loss": 0.5})
    ((step, loss),) = read_scalars(tmp_path / "tensorboard")["loss"]
    assert step == 2
    assert math.isnan(loss)
    assert read_scalars(tmp_path / "tensorboard")["test/loss"] == [(2, 0.5)]
    assert read_texts(tmp_path / "tensorboard", "warning") == [(2, "odd")]


def test_metrics_of_killed_run_are_ignored(tmp_path: Path) -> None:
    """Lines that a killed run has left are not written, because the new run starts before their step."""
    pytest.importorskip("tensorboard")
    (tmp_path / "metrics.jsonl").write_text('{"step": 40, "seconds": 1, "loss": 9}\n')
    with TensorBoardListener() as board:
        board.run_start(str(tmp_path), load_small_recipe(tmp_path), 1)
        board.run_log(0, {"loss": 1.0})
    assert read_scalars(tmp_path / "tensorboard") == {"loss": [(0, 1.0)]}


def test_interrupted_run_flushes_events(tmp_path: Path) -> None:
    """The last event before an interruption is written, although nothing has flushed it."""
    pytest.importorskip("tensorboard")

    def run_until_interrupt() -> None:
        with TensorBoardListener() as board:
            board.run_start(str(tmp_path), load_small_recipe(tmp_path), 1)
            board.run_warning(3, "odd")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_until_interrupt()
    assert read_texts(tmp_path / "tensorboard", "warning") == [(3, "odd")]


def test_missing_tensorboard_package(ni: RunNi, small_recipe_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is reported before training starts."""
    original = builtins.__import__

    def import_without_tensorboard(name: str, *arguments: Any, **named: Any) -> Any:
        if "tensorboard" in name and not name.startswith("ni_framework"):
            raise ImportError(name)
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", import_without_tensorboard)
    result = ni("train", "small.yaml", "--output", "run", "--tensorboard")
    assert result.code == 2
    assert result.err == 'error: --tensorboard needs the package tensorboard; pip install "ni-framework[tensorboard]"\n'
    assert not (small_recipe_dir / "run").exists()
