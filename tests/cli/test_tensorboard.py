"""`ni train --tensorboard`: what TensorBoard reads back is what was measured, and training is the same."""

from __future__ import annotations

import builtins
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ni


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar in the event files of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder))
        events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def metrics(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """Every number of a metrics file."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for text in (run / "metrics.jsonl").read_text().splitlines():
        line: dict[str, Any] = json.loads(text)
        for name, value in line.items():
            if name not in ("step", "seconds"):
                found.setdefault(name, []).append((line["step"], pytest.approx(value, rel=1e-6)))
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
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
