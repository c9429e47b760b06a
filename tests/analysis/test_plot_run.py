"""The picture of a run: which series it holds, and that nothing in a run's metrics breaks it."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from ni_framework.analysis.metrics_log import History, read_history
from ni_framework.analysis.plot_run import STYLE, figure_of, plot_runs, run_names
from ni_framework.errors import UsageError
from ni_framework.training.train import train
from tests.helpers.small_recipe import small_recipe


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
    ranges = {axes[title].get_xlim() for title in ("loss", "accuracy", "learning rate", "routing")}
    assert len(ranges) == 1, "panels one above the other show the same steps"
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
    legend = accuracy.get_legend()
    assert loss.get_legend() is None, "one will do"
    assert loss.get_xlim() == accuracy.get_xlim() == pytest.approx((-0.18, 6.18))
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "a, training",
        "a, held out",
        "b, training",
        "b, held out",
    ]
    assert accuracy.get_title(loc="left") == "accuracy"
    many = figure_of({str(number): history for number in range(10)}).axes[0].get_lines()
    assert len({line.get_color() for line in many}) == 10


def test_what_a_head_measures_stands_beside_the_loss(tmp_path: Path) -> None:
    """R^2, which is no percentage, where nothing has an accuracy; a run without either leaves its panel empty."""
    measured = {"step": 1, "seconds": 1, "train/loss": 0.7, "train/r2": 0.3, "test/r2": 0.25}
    axes = named(read_history(written(tmp_path / "run", json.dumps(measured))))
    assert list(axes)[:2] == ["loss", "r2"]
    drawn = {str(line.get_label()): line for line in axes["r2"].get_lines()}
    assert points(drawn["training"]) == [(1, 0.3)]
    assert points(drawn["held out"]) == [(1, 0.25)]
    assert axes["r2"].yaxis.get_major_formatter()(0.5, 0) != "50%"
    other = {"step": 1, "seconds": 1, "train/loss": 0.7}
    axes = named(read_history(written(tmp_path / "other", json.dumps(other))))
    assert axes["accuracy"].get_lines()[:] == []


def test_many_tasks_are_drawn_as_their_mean_alone(tmp_path: Path) -> None:
    """A legend of all would leave no room for the figure."""
    line = {"step": 1, "seconds": 1, "test/r2": 0.5} | {f"test/r2/{number}": 0.5 for number in range(13)}
    axes = named(read_history(written(tmp_path / "run", json.dumps(line))))
    assert [line.get_label() for line in axes["r2"].get_lines()] == ["held out"]


def test_tasks_have_thinner_lines(tmp_path: Path) -> None:
    """One each, and the warning's name does not go with theirs."""
    line = {"step": 1, "seconds": 1, "test/accuracy": 0.5, "test/accuracy/a": 0.25, "test/accuracy/b": 0.75}
    warning = {"step": 2, "seconds": 1, "warning": "odd"}
    run = written(tmp_path / "run", json.dumps(line | {"train/accuracy": 0.5}), json.dumps(warning))
    axes = named(read_history(run))
    drawn = {str(line.get_label()): line for line in axes["accuracy"].get_lines()}
    assert drawn.keys() == {"training", "held out", "held out, a", "held out, b"}
    assert points(drawn["held out, b"]) == [(1, 0.75)]
    assert axes["loss"].get_xlim()[1] == pytest.approx(2.06), "the warning's step is seen"
    assert drawn["held out, b"].get_linewidth() < drawn["held out"].get_linewidth()
    assert [text.get_text() for text in axes["loss"].get_legend().get_texts()] == ["warning"]


def test_legends_touch_neither_data_nor_titles(tmp_path: Path) -> None:
    """Also where names of tasks make the panels narrow."""
    names = ["train/accuracy", "test/accuracy", *(f"test/accuracy/textured{number}" for number in range(3))]
    health = {"routing/open": 0.5, "routing/orphans": 0.1}
    run = written(tmp_path / "run", json.dumps({"step": 1, "seconds": 1} | dict.fromkeys(names, 0.5) | health))
    with matplotlib.rc_context(STYLE):
        figure = figure_of({"run": read_history(run)})
        figure.savefig(tmp_path / "figure.png")
        legends = [(axes, legend.get_window_extent()) for axes in figure.axes if (legend := axes.get_legend())]
        assert len(legends) == 2
        for axes, box in legends:
            assert not box.overlaps(axes.get_window_extent().padded(-1))
            title = next(
                text for text in axes.get_children() if getattr(text, "get_text", str)() == axes.get_title("left")
            )
            assert not box.overlaps(title.get_window_extent())


def test_a_run_is_called_by_recipe_and_folder(run: Path, tmp_path: Path) -> None:
    """The recipe's name is the checkpoints' to tell; two of one name are told apart by their paths, none is lost."""
    assert run_names([run]) == ["small/small"]
    (tmp_path / "digits").mkdir()
    begun = written(tmp_path / "digits/today", "")
    assert run_names([begun]) == ["digits/today"]
    other = tmp_path / "elsewhere/small"
    shutil.copytree(run, other)
    assert run_names([run, other]) == [str(run), str(other)]


def test_shares_that_are_not_known_of_every_function(tmp_path: Path) -> None:
    """Such a step is left out of their sum."""
    lines = [{"step": step, "seconds": 1, "routing/use/script0/f0": 0.25} for step in (1, 2, 3)]
    uses = [0.75, None, 0.75]
    run = written(
        tmp_path / "run",
        *(json.dumps(line | {"routing/use/script0/f1": use}) for line, use in zip(lines, uses, strict=True)),
    )
    below, above = named(read_history(run))["use of functions"].collections
    assert set(below.get_paths()[0].vertices[:, 0]) == {1, 3}
    assert above.get_paths()[0].vertices[:, 1].max() == pytest.approx(1)


def test_unfinished_and_odd_lines(tmp_path: Path) -> None:
    """A line that is cut off, a null, and a stranger's are left out; warnings are marked; one point is enough."""
    use = {f"routing/use/script0/f{number}": 1 / 20 for number in range(20)}
    run = written(
        tmp_path / "run",
        json.dumps({"step": 2, "seconds": 1, "train/loss": 2.5, "lr": 0.1} | use),
        '{"step": 3, "seconds": 1, "warning": "step 3 was skipped: the loss is nan"}',
        '{"step": 4, "seconds": 1, "train/loss": null, "test/accuracy/a": NaN}',
        "[]",
        '{"step": Infinity, "seconds": 1, "train/loss": 1}',
        '{"step": 5, "seconds": 1, "train/loss": 1' + "0" * 400 + "}",
        '{"step": 6, "seconds": 2, "train/lo',
    )
    history = read_history(run)
    assert history.series["train/loss"] == ([2], [2.5])
    assert history.warnings == [3]
    axes = named(history)
    assert "use of functions (f0 to f19, from below)" in axes
    (marks,) = [line for line in axes["loss"].get_lines() if line.get_label() == "warning"]
    assert points(marks) == [(3, 0.02)]
    assert all(float(tick).is_integer() for panel in axes.values() for tick in panel.get_xticks()), "steps are whole"
    assert plot_runs([run])


def test_nothing_to_draw(tmp_path: Path) -> None:
    """Each is said."""
    cases = {
        tmp_path / "absent": f"{tmp_path}/absent: there is no such run; name the folder of a run",
        tmp_path: f"{tmp_path}: holds no metrics.jsonl; name the folder of a run",
        written(
            tmp_path / "empty", ""
        ): f"{tmp_path}/empty/metrics.jsonl: holds no line of metrics yet; wait for the first, or name another run",
    }
    for folder, message in cases.items():
        with pytest.raises(UsageError) as caught:
            read_history(folder)
        assert str(caught.value) == message
