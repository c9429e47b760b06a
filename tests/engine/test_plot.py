"""The picture of a run: which series it holds, and that nothing in a run's metrics breaks it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from ni_framework.engine.history import History, read_history
from ni_framework.engine.plot import figure_of, plot_runs
from ni_framework.engine.trainer import train
from ni_framework.errors import UsageError
from tests.engine.small import small_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two scripts with evaluations."""
    folder = tmp_path_factory.mktemp("plot")
    train(small_recipe(folder, "train.evaluate_every=2", "model.scripts=2"), folder / "small")
    return folder / "small"


def written(folder: Path, *lines: str) -> Path:
    """A run with these lines of metrics."""
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder


def points(line: Any) -> list[tuple[float, float]]:
    """What a line goes through."""
    return [(float(x), float(y)) for x, y in line.get_xydata()]


def named(history: History) -> dict[str, Any]:
    """The panels of a run's figure by their titles."""
    return {axes.get_title(loc="left"): axes for axes in figure_of({"run": history}).axes}


def test_panels_and_series(run: Path) -> None:
    """Every panel has its title, its steps, and the values that were measured."""
    history = read_history(run)
    axes = named(history)
    scripts = {"use of functions, script0", "use of functions, script1"}
    assert axes.keys() == {"loss", "accuracy", "learning rate", "routing"} | scripts
    drawn = {str(line.get_label()): line for line in axes["loss"].get_lines()}
    assert drawn["training"].get_xydata().tolist() == [
        list(pair) for pair in zip(*history.series["train/loss"], strict=True)
    ]
    assert drawn["held out"].get_xdata().tolist() == [2, 4, 6]
    assert axes["accuracy"].get_legend() is not None
    for name in scripts:
        shares = [area.get_paths()[0].vertices[:, 1].max() for area in axes[name].collections]
        assert len(shares) == 3
        assert shares[-1] == pytest.approx(1)
        assert {text.get_text() for text in axes[name].get_legend().get_texts()} == {"f0", "f1", "f2"}


def test_it_is_a_png(run: Path) -> None:
    """Of a size to print."""
    content = plot_runs([run])
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24])[0] == 1500


def test_several_runs_are_compared(run: Path) -> None:
    """By loss and accuracy, each with its name."""
    history = read_history(run)
    loss, accuracy = figure_of({"a": history, "b": history}).axes
    legend = loss.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "a, training",
        "a, held out",
        "b, training",
        "b, held out",
    ]
    assert accuracy.get_title(loc="left") == "accuracy"


def test_unfinished_and_odd_lines(tmp_path: Path) -> None:
    """A line that is cut off, a null, and a stranger's are left out; warnings are marked; one point is enough."""
    use = {f"routing/use/script0/f{number}": 1 / 20 for number in range(20)}
    run = written(
        tmp_path / "run",
        json.dumps({"step": 2, "seconds": 1, "train/loss": 2.5, "lr": 0.1} | use),
        '{"step": 3, "seconds": 1, "warning": "step 3 was skipped: the loss is nan"}',
        '{"step": 4, "seconds": 1, "train/loss": null, "test/accuracy/a": NaN}',
        "[]",
        '{"step": 6, "seconds": 2, "train/lo',
    )
    history = read_history(run)
    assert history.series["train/loss"] == ([2], [2.5])
    assert history.warnings == [3]
    axes = named(history)
    assert "use of functions (f0 to f19, from below)" in axes
    (marks,) = [line for line in axes["loss"].get_lines() if line.get_label() == "warning"]
    assert points(marks) == [(3, 0.02)]
    assert plot_runs([run])


def test_nothing_to_draw(tmp_path: Path) -> None:
    """Each is said."""
    cases = {
        tmp_path / "absent": f"{tmp_path}/absent: holds no metrics.jsonl; name the folder of a run",
        written(
            tmp_path / "empty", ""
        ): f"{tmp_path}/empty/metrics.jsonl: holds no line of metrics yet; wait for the first, or name another run",
    }
    for folder, message in cases.items():
        with pytest.raises(UsageError) as caught:
            read_history(folder)
        assert str(caught.value) == message
