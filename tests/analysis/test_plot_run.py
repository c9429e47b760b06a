"""Plots of runs: their series and legends, and unusual metrics files."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from ni_framework.analysis.metrics_log import MetricsLog, read_metrics_log
from ni_framework.analysis.plot_run import STYLE, draw_runs, plot_runs, run_names
from ni_framework.errors import UsageError
from ni_framework.training.train import train
from tests.helpers.small_recipe import load_small_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a run with two scripts and evaluations."""
    folder = tmp_path_factory.mktemp("plot")
    train(load_small_recipe(folder, "train.evaluate_every=2", "model.scripts=2"), folder / "small")
    return folder / "small"


def write_metrics(folder: Path, *lines: str) -> Path:
    """Writes a run folder with these lines of metrics."""
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder


def line_points(line: Any) -> list[tuple[float, float]]:
    """Returns the points of a line."""
    return [(float(x), float(y)) for x, y in line.get_xydata()]


def panels_by_title(log: MetricsLog) -> dict[str, Any]:
    """Returns the panels of a run's figure by their titles."""
    return {axes.get_title(loc="left"): axes for axes in draw_runs({"run": log}).axes}


def test_panels_and_series(run: Path) -> None:
    """Every panel has its title, its steps and the measured values."""
    log = read_metrics_log(run)
    axes = panels_by_title(log)
    scripts = {"use of functions, script0", "use of functions, script1"}
    assert axes.keys() == {"loss", "accuracy", "learning rate", "routing"} | scripts
    drawn = {str(line.get_label()): line for line in axes["loss"].get_lines()}
    assert drawn["training"].get_xydata().tolist() == [
        list(pair) for pair in zip(*log.series["train/loss"], strict=True)
    ]
    assert drawn["held out"].get_xdata().tolist() == [2, 4, 6]
    assert axes["accuracy"].get_legend() is not None
    ranges = {axes[title].get_xlim() for title in ("loss", "accuracy", "learning rate", "routing")}
    assert len(ranges) == 1, "all panels show the same steps"
    for name in scripts:
        shares = [area.get_paths()[0].vertices[:, 1].max() for area in axes[name].collections]
        assert len(shares) == 3
        assert shares[-1] == pytest.approx(1)
        assert {text.get_text() for text in axes[name].get_legend().get_texts()} == {"f0", "f1", "f2"}


def test_png_size(run: Path) -> None:
    """The plot is a PNG file that is 1500 pixels wide."""
    content = plot_runs([run])
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24])[0] == 1500


def test_several_runs_are_compared(run: Path) -> None:
    """Several runs are compared by loss and accuracy, with their names in one legend."""
    log = read_metrics_log(run)
    loss, accuracy = draw_runs({"a": log, "b": log}).axes
    legend = accuracy.get_legend()
    assert loss.get_legend() is None, "the legend of the other panel is enough"
    assert loss.get_xlim() == accuracy.get_xlim() == pytest.approx((-0.18, 6.18))
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "a, training",
        "a, held out",
        "b, training",
        "b, held out",
    ]
    assert accuracy.get_title(loc="left") == "accuracy"
    many = draw_runs({str(number): log for number in range(10)}).axes[0].get_lines()
    assert len({line.get_color() for line in many}) == 10


def test_summary_metric_panel(tmp_path: Path) -> None:
    """Without an accuracy, 1 - MSE is drawn beside the loss, not in percent; without both, the panel is empty."""
    measured = {"step": 1, "seconds": 1, "train/loss": 0.7, "train/one_minus_mse": 0.3, "test/one_minus_mse": 0.25}
    axes = panels_by_title(read_metrics_log(write_metrics(tmp_path / "run", json.dumps(measured))))
    assert list(axes)[:2] == ["loss", "one_minus_mse"]
    drawn = {str(line.get_label()): line for line in axes["one_minus_mse"].get_lines()}
    assert line_points(drawn["training"]) == [(1, 0.3)]
    assert line_points(drawn["held out"]) == [(1, 0.25)]
    assert axes["one_minus_mse"].yaxis.get_major_formatter()(0.5, 0) != "50%"
    other = {"step": 1, "seconds": 1, "train/loss": 0.7}
    axes = panels_by_title(read_metrics_log(write_metrics(tmp_path / "other", json.dumps(other))))
    assert axes["accuracy"].get_lines()[:] == []


def test_many_tasks_are_drawn_as_their_mean_alone(tmp_path: Path) -> None:
    """If there are many tasks, their lines are not drawn, since a legend of all would leave no room."""
    line = {"step": 1, "seconds": 1, "test/one_minus_mse": 0.5} | {
        f"test/one_minus_mse/{number}": 0.5 for number in range(13)
    }
    axes = panels_by_title(read_metrics_log(write_metrics(tmp_path / "run", json.dumps(line))))
    assert [line.get_label() for line in axes["one_minus_mse"].get_lines()] == ["held out"]


def test_tasks_have_thinner_lines(tmp_path: Path) -> None:
    """Each task has a thin line, and the label of warnings is not in the legend of the tasks."""
    line = {"step": 1, "seconds": 1, "test/accuracy": 0.5, "test/accuracy/a": 0.25, "test/accuracy/b": 0.75}
    warning = {"step": 2, "seconds": 1, "warning": "odd"}
    run = write_metrics(tmp_path / "run", json.dumps(line | {"train/accuracy": 0.5}), json.dumps(warning))
    axes = panels_by_title(read_metrics_log(run))
    drawn = {str(line.get_label()): line for line in axes["accuracy"].get_lines()}
    assert drawn.keys() == {"training", "held out", "held out, a", "held out, b"}
    assert line_points(drawn["held out, b"]) == [(1, 0.75)]
    assert axes["loss"].get_xlim()[1] == pytest.approx(2.06), "the step of the warning is visible"
    assert drawn["held out, b"].get_linewidth() < drawn["held out"].get_linewidth()
    assert [text.get_text() for text in axes["loss"].get_legend().get_texts()] == ["warning"]


def test_legends_touch_neither_data_nor_titles(tmp_path: Path) -> None:
    """Legends do not overlap, even if long names of tasks make the panels narrow."""
    names = ["train/accuracy", "test/accuracy", *(f"test/accuracy/textured{number}" for number in range(3))]
    routing = {"routing/open": 0.5, "routing/orphans": 0.1}
    run = write_metrics(tmp_path / "run", json.dumps({"step": 1, "seconds": 1} | dict.fromkeys(names, 0.5) | routing))
    with matplotlib.rc_context(STYLE):
        figure = draw_runs({"run": read_metrics_log(run)})
        figure.savefig(tmp_path / "figure.png")
        legends = [(axes, legend.get_window_extent()) for axes in figure.axes if (legend := axes.get_legend())]
        assert len(legends) == 2
        for axes, box in legends:
            assert not box.overlaps(axes.get_window_extent().padded(-1))
            title = next(
                text for text in axes.get_children() if getattr(text, "get_text", str)() == axes.get_title("left")
            )
            assert not box.overlaps(title.get_window_extent())


def test_run_names(run: Path, tmp_path: Path) -> None:
    """Runs are named by recipe, as in their checkpoints, and folder; runs of the same name are named by their paths."""
    assert run_names([run]) == ["small/small"]
    (tmp_path / "digits").mkdir()
    started = write_metrics(tmp_path / "digits/today", "")
    assert run_names([started]) == ["digits/today"]
    other = tmp_path / "elsewhere/small"
    shutil.copytree(run, other)
    assert run_names([run, other]) == [str(run), str(other)]


def test_incomplete_use_of_functions(tmp_path: Path) -> None:
    """A step without the use of every function is skipped in the stacked areas."""
    lines = [{"step": step, "seconds": 1, "routing/use/script0/f0": 0.25} for step in (1, 2, 3)]
    uses = [0.75, None, 0.75]
    run = write_metrics(
        tmp_path / "run",
        *(json.dumps(line | {"routing/use/script0/f1": use}) for line, use in zip(lines, uses, strict=True)),
    )
    below, above = panels_by_title(read_metrics_log(run))["use of functions"].collections
    assert set(below.get_paths()[0].vertices[:, 0]) == {1, 3}
    assert above.get_paths()[0].vertices[:, 1].max() == pytest.approx(1)


def test_unusual_lines(tmp_path: Path) -> None:
    """Incomplete lines, null and unknown values are skipped; warnings are marked; a single point is drawn."""
    use = {f"routing/use/script0/f{number}": 1 / 20 for number in range(20)}
    run = write_metrics(
        tmp_path / "run",
        json.dumps({"step": 2, "seconds": 1, "train/loss": 2.5, "lr": 0.1} | use),
        '{"step": 3, "seconds": 1, "warning": "step 3 was skipped: the loss is nan"}',
        '{"step": 4, "seconds": 1, "train/loss": null, "test/accuracy/a": NaN}',
        "[]",
        '{"step": Infinity, "seconds": 1, "train/loss": 1}',
        '{"step": 5, "seconds": 1, "train/loss": 1' + "0" * 400 + "}",
        '{"step": 6, "seconds": 2, "train/lo',
    )
    log = read_metrics_log(run)
    assert log.series["train/loss"] == ([2], [2.5])
    assert log.warning_steps == [3]
    axes = panels_by_title(log)
    assert "use of functions (f0 to f19, from below)" in axes
    (marks,) = [line for line in axes["loss"].get_lines() if line.get_label() == "warning"]
    assert line_points(marks) == [(3, 0.02)]
    assert all(float(tick).is_integer() for panel in axes.values() for tick in panel.get_xticks()), (
        "ticks are at integer steps"
    )
    assert plot_runs([run])


def test_runs_without_metrics(tmp_path: Path) -> None:
    """Each reason is reported."""
    cases = {
        tmp_path / "absent": f"{tmp_path}/absent: there is no such folder; name a run folder",
        tmp_path: f"{tmp_path}: contains no metrics.jsonl; name a run folder",
        write_metrics(
            tmp_path / "empty", ""
        ): f"{tmp_path}/empty/metrics.jsonl: contains no metrics yet; wait for the first ones, or name another run",
    }
    for folder, message in cases.items():
        with pytest.raises(UsageError) as caught:
            read_metrics_log(folder)
        assert str(caught.value) == message
