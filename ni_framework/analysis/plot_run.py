"""A run as a picture: what it learned, and what its functions did meanwhile."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ni_framework.analysis.metrics_log import History, Series, read_history
from ni_framework.checkpoint.manifest import read_manifest
from ni_framework.checkpoint.run_dir import checkpoints_of
from ni_framework.contracts import MEASURES
from ni_framework.errors import CheckpointError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
SHOWN = 12  # functions or tasks that a legend can name
BESIDE_TITLE = 3  # names that fit on the line of a panel's title
GREY = "#666666"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
}


def plot_runs(runs: Sequence[Path]) -> bytes:
    """A PNG of a run: loss, accuracy or R^2, learning rate, routing and the use of functions; of several, the first two."""
    return png(lambda: figure_of(dict(zip(run_names(runs), map(read_history, runs), strict=True))))


def png(draw: Callable[[], Figure]) -> bytes:
    """What is drawn, in the style of all pictures here, as a PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(STYLE):
        figure = draw()
        FigureCanvasAgg(figure)
        content = io.BytesIO()
        figure.savefig(content, dpi=150)
    return content.getvalue()


def figure_of(histories: Mapping[str, History]) -> Figure:
    """The figure of one run or several, by their names."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    alone = next(iter(histories.values())) if len(histories) == 1 else None
    scripts = _scripts(alone) if alone else {}
    rows = 2 + (len(scripts) + 1) // 2 if alone else 1
    figure = Figure(figsize=(10, 0.6 + 2.7 * rows), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    grid = figure.add_gridspec(rows, 2)
    loss, beside = (figure.add_subplot(grid[0, column]) for column in range(2))
    measure = _measure(histories)
    _learning(loss, "loss", histories)
    _learning(beside, measure, histories)
    if measure == "accuracy":
        beside.yaxis.set_major_formatter(_percent)
    shared = _legend(beside)
    if alone is None:
        _legend(loss, shared)
        _same_steps([loss, beside], histories)
        return figure
    figure.suptitle(next(iter(histories)), fontsize=11, fontweight="bold")
    _mark_warnings(loss, alone)
    _legend(loss, shared)
    rate, health = (figure.add_subplot(grid[1, column]) for column in range(2))
    _rate(rate, alone)
    _health(health, alone)
    _same_steps([loss, beside, rate, health], histories)
    for number, (script, uses) in enumerate(scripts.items()):
        last_alone = number % 2 == 0 and number + 1 == len(scripts)
        axes = figure.add_subplot(grid[2 + number // 2, :] if last_alone else grid[2 + number // 2, number % 2])
        _use(axes, f"use of functions, {script}" if len(scripts) > 1 else "use of functions", uses)
    return figure


def run_names(runs: Sequence[Path]) -> list[str]:
    """What the runs are called; by their paths where two would be called the same."""
    names = [_name(run) for run in runs]
    return [str(run) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def _name(run: Path) -> str:
    """Recipe and run folder; before the first checkpoint the folder above tells the recipe, by default."""
    run = run.resolve()
    recipe = run.parent.name
    if found := checkpoints_of(run):
        with suppress(CheckpointError):  # a picture needs no whole checkpoint
            recipe = read_manifest(found[-1]).name
    return f"{recipe}/{run.name}"


def _measure(histories: Mapping[str, History]) -> str:
    """What is drawn beside the loss: the first of `MEASURES` that a run has."""
    series = {name.partition("/")[2] for history in histories.values() for name in history.series}
    return next((measure for measure in MEASURES if measure in series), MEASURES[0])


def _learning(axes: Axes, measure: str, histories: Mapping[str, History]) -> None:
    """Training as a thin line, the held-out part with marks; tasks, where there are several, in thin dashes."""
    several = len(histories) > 1
    for colour, (name, history) in zip(_cycle(len(histories)), histories.items(), strict=True):
        lead = f"{name}, " if several else ""
        if found := history.series.get(f"train/{measure}"):
            _line(axes, found, color=colour, alpha=0.55 if several else 1, label=f"{lead}training")
        held_out = colour if several else COLOURS[1]
        if found := history.series.get(f"test/{measure}"):
            _line(axes, found, color=held_out, marker="o", markersize=4, label=f"{lead}held out")
        tasks = {} if several else history.under(f"test/{measure}/")
        tasks = tasks if len(tasks) <= SHOWN else {}
        for shade, (task, found) in zip(_cycle(len(tasks), 2), tasks.items(), strict=True):
            _line(axes, found, color=shade, linewidth=0.9, linestyle="--", marker=".", label=f"held out, {task}")
    _finish(axes, measure)


def _rate(axes: Axes, history: History) -> None:
    if found := history.series.get("lr"):
        _line(axes, found, color=COLOURS[0])
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # no factor above the axis, where the title is
    _finish(axes, "learning rate")


def _health(axes: Axes, history: History) -> None:
    names = {"routing/open": "open pairs", "routing/orphans": "orphaned elements"}
    for colour, (name, label) in zip(COLOURS, names.items(), strict=False):
        if found := history.series.get(name):
            _line(axes, found, color=colour, label=label)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(_percent)
    _finish(axes, "routing")
    _legend(axes)


def _use(axes: Axes, title: str, uses: Mapping[str, Series]) -> None:
    """Shares of a script's compatibility, one above the other."""
    by_step = [dict(zip(*series, strict=True)) for series in uses.values()]
    steps: list[float] = sorted(set[int].intersection(*map(set, by_step)))  # a sum needs every function's share
    shares = [[values[int(step)] for step in steps] for values in by_step]
    if len(steps) == 1:  # an area needs a width
        steps, shares = [steps[0] - 0.5, steps[0] + 0.5], [values * 2 for values in shares]
    axes.stackplot(
        steps, shares, labels=list(uses), colors=_cycle(len(uses)), edgecolor="white", linewidth=min(0.5, 4 / len(uses))
    )
    axes.set_ylim(0, 1)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(_percent)
    _finish(axes, title)
    if len(uses) <= SHOWN:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), handlelength=1)
    else:
        axes.set_title(f"{title} (f0 to f{len(uses) - 1}, from below)", loc="left")


def _same_steps(panels: Sequence[Axes], histories: Mapping[str, History]) -> None:
    """From 0 to the last step of all, so that panels beside and above one another can be compared."""
    last = max([1, *(step for history in histories.values() for step in history.steps())])
    for axes in panels:
        axes.set_xlim(-0.03 * last, 1.03 * last)


def _mark_warnings(axes: Axes, history: History) -> None:
    if history.warnings:
        at_the_foot = axes.get_xaxis_transform()
        axes.plot(history.warnings, [0.02] * len(history.warnings), linestyle="", marker="^", markersize=5, color=GREY,
                  transform=at_the_foot, label="warning", clip_on=False)  # fmt: skip


def _line(axes: Axes, series: Series, **style: object) -> None:
    """A line; few points are marked, since a line through one of them would not be seen."""
    few = {"marker": "o", "markersize": 3.5} if len(series[0]) < 4 else {}
    axes.plot(*series, **(few | style))  # pyright: ignore[reportArgumentType]


def _finish(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10], min_n_ticks=1))


def _legend(axes: Axes, elsewhere: Sequence[str] = ()) -> list[str]:
    """Never over the data: few names beside the title, more to the right, which are returned so that one legend will do."""
    handles, labels = axes.get_legend_handles_labels()
    named = {label: handle for label, handle in zip(labels, handles, strict=True) if label not in elsewhere}
    if len(named) > BESIDE_TITLE:
        axes.legend(named.values(), named, loc="upper left", bbox_to_anchor=(1, 1))
        return list(named)
    if named:
        axes.legend(
            named.values(),
            named,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=len(named),
            borderpad=0,
            handlelength=1.5,
            columnspacing=1.2,
        )
    return []


def _percent(value: float, _: object) -> str:
    return f"{value:.3g}%" if (value := round(100 * value, 6)) else "0%"


def _scripts(history: History) -> dict[str, dict[str, Series]]:
    """{"script0": {"f0": its use}}"""
    scripts: dict[str, dict[str, Series]] = {}
    for name, series in history.under("routing/use/").items():
        script, _, function = name.partition("/")
        scripts.setdefault(script, {})[function] = series
    return scripts


def _cycle(number: int, start: int = 0) -> list[Any]:
    """That many colours, all different: more than there are names for go dark and light in turn, so that neighbours differ."""
    if start + number <= len(COLOURS):
        return list(COLOURS[start : start + number])
    import matplotlib

    ramp = matplotlib.colormaps["viridis"]
    return [ramp((place / 2 if place % 2 == 0 else (place + number) / 2) / number) for place in range(number)]
