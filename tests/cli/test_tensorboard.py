"""`ni train --tensorboard`: what TensorBoard reads back is what was measured, and training is the same."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import pytest

from ni_framework.cli.tensorboard import TensorBoard
from tests.cli.conftest import Ni
from tests.helpers.small_recipe import small_recipe


def read(folder: Path) -> Any:
    """The event files of a folder, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar in the event files of a folder."""
    events = read(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def texts(folder: Path, tag: str) -> list[tuple[int, str]]:
    """Every text of a tag in the event files of a folder."""
    found = read(folder).Tensors(f"{tag}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in found]


def metrics(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """Every number of a metrics file."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for text in (run / "metrics.jsonl").read_text().splitlines():
        line: dict[str, Any] = json.loads(text)
        for name, value in line.items():
            if name not in ("step", "seconds", "warning"):
                found.setdefault(name, []).append((line["step"], pytest.approx(value, rel=1e-6)))
    return found


def test_what_it_shows(ni: Ni, small: Path) -> None:
    """All metrics, also of a run that was resumed in place: no step twice."""
    pytest.importorskip("tensorboard")
    assert ni("train", "small.yaml", "--output", "plain").code == 0
    done = ni("train", "small.yaml", "--output", "run", "--tensorboard", "--every", 2)
    assert done.code == 0, done.err
    weights = [(small / run / "checkpoints/step-6/model.safetensors").read_bytes() for run in ("plain", "run")]
    assert weights[0] == weights[1]
    assert scalars(small / "run" / "tensorboard") == metrics(small / "run")
    (small / "run/checkpoints/latest").unlink()
    for step in (4, 6):
        (small / f"run/checkpoints/step-{step}").rename(small / f"step-{step}")
    assert ni("train", "--resume", "run", "--tensorboard").code == 0
    assert scalars(small / "run" / "tensorboard") == metrics(small / "run")


def test_a_warning_at_the_step_of_the_checkpoint(ni: Ni, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides nothing that was measured there before; it stands there as text, and so does the recipe."""
    pytest.importorskip("tensorboard")
    run = small / "run"
    assert ni("train", "small.yaml", "train.steps=4", "--output", "run", "--tensorboard").code == 0
    monkeypatch.setattr("ni_framework.training.loop.lock_difference", lambda *_: ["torch 1 is 2"])
    assert ni("train", "--resume", "run", "train.steps=6", "--tensorboard").code == 0
    assert [step for step, _ in scalars(run / "tensorboard")["train/loss"]] == [2, 4, 6]
    assert scalars(run / "tensorboard") == metrics(run)
    ((step, warning),) = texts(run / "tensorboard", "warning")
    assert (step, warning.endswith("may go on otherwise: torch 1 is 2")) == (4, True)
    assert (run / "recipe.yaml").read_text() in texts(run / "tensorboard", "recipe")[-1][1]


def test_a_kept_warning_and_what_is_not_finite(tmp_path: Path) -> None:
    """Both are written once more where the step is told more of; what is left of a torn line is passed over."""
    pytest.importorskip("tensorboard")
    kept = ['{"step": 2, "seconds": 1, "loss": null}', '{"step": 2, "seconds": 1, "warning": "odd"}', '{"step": 3, "se']
    (tmp_path / "metrics.jsonl").write_text("\n".join(kept))
    with TensorBoard() as board:
        board.run_start(str(tmp_path), small_recipe(tmp_path), 1)
        board.run_evaluation(2, {"test/loss": 0.5})
    ((step, loss),) = scalars(tmp_path / "tensorboard")["loss"]
    assert (step, math.isnan(loss)) == (2, True)
    assert scalars(tmp_path / "tensorboard")["test/loss"] == [(2, 0.5)]
    assert texts(tmp_path / "tensorboard", "warning") == [(2, "odd")]


def test_a_folder_that_a_killed_run_left(tmp_path: Path) -> None:
    """Nothing of it is shown again, since the new run begins before it."""
    pytest.importorskip("tensorboard")
    (tmp_path / "metrics.jsonl").write_text('{"step": 40, "seconds": 1, "loss": 9}\n')
    with TensorBoard() as board:
        board.run_start(str(tmp_path), small_recipe(tmp_path), 1)
        board.run_log(0, {"loss": 1.0})
    assert scalars(tmp_path / "tensorboard") == {"loss": [(0, 1.0)]}


def test_an_interrupted_run_is_closed(tmp_path: Path) -> None:
    """What was told last, which nothing has flushed, is there."""
    pytest.importorskip("tensorboard")

    def interrupted() -> None:
        with TensorBoard() as board:
            board.run_start(str(tmp_path), small_recipe(tmp_path), 1)
            board.run_warning(3, "odd")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert texts(tmp_path / "tensorboard", "warning") == [(3, "odd")]


def test_without_the_package(ni: Ni, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before anything is trained."""
    original = builtins.__import__

    def absent(name: str, *arguments: Any, **named: Any) -> Any:
        if "tensorboard" in name and not name.startswith("ni_framework"):
            raise ImportError(name)
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    done = ni("train", "small.yaml", "--output", "run", "--tensorboard")
    assert (done.code, done.err) == (
        2,
        'error: --tensorboard needs the package tensorboard; pip install "ni-framework[tensorboard]"\n',
    )
    assert not (small / "run").exists()
