"""A run as a picture: what it learned, and what its functions did meanwhile."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ni_framework.engine.history import History, Series, read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
SHOWN = 12  # functions that a legend can name
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
    """A PNG of a run: loss, accuracy, learning rate, routing and the use of functions; of several, loss and accuracy."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(STYLE):
        figure = figure_of({_name(run): read_history(run) for run in runs})
        FigureCanvasAgg(figure)
        content = io.BytesIO()
        figure.savefig(content, dpi=150)
    return content.getvalue()


def figure_of(histories: Mapping[str, History]) -> Figure:
    """The figure of one run or several, by their names."""
    from matplotlib.figure import Figure

    alone = next(iter(histories.values())) if len(histories) == 1 else None
    scripts = _scripts(alone) if alone else {}
    rows = 2 + (len(scripts) + 1) // 2 if alone else 1
    figure = Figure(figsize=(10, 0.6 + 2.7 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 2)
    loss, accuracy = (figure.add_subplot(grid[0, column]) for column in range(2))
    _learning(loss, "loss", histories)
    _learning(accuracy, "accuracy", histories)
    if alone is None:
        return figure
    figure.suptitle(next(iter(histories)), fontsize=11, fontweight="bold")
    _mark_warnings(loss, alone)
    _lines(figure.add_subplot(grid[1, 0]), "learning rate", {"": alone.series.get("lr", ([], []))}, legend=False)
    _health(figure.add_subplot(grid[1, 1]), alone)
    for number, (script, uses) in enumerate(scripts.items()):
        last_alone = number % 2 == 0 and number + 1 == len(scripts)
        axes = figure.add_subplot(grid[2 + number // 2, :] if last_alone else grid[2 + number // 2, number % 2])
        _use(axes, f"use of functions, {script}" if len(scripts) > 1 else "use of functions", uses)
    return figure


def _name(run: Path) -> str:
    """The last two folders, which tell recipe and time in a default run folder."""
    return "/".join(run.resolve().parts[-2:])


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
        for shade, (task, found) in zip(_cycle(len(tasks), 2), tasks.items(), strict=True):
            _line(axes, found, color=shade, linewidth=0.9, linestyle="--", marker=".", label=f"held out, {task}")
    _finish(axes, measure, legend=True)
    if measure == "accuracy":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _health(axes: Axes, history: History) -> None:
    names = {"routing/open": "open pairs", "routing/orphans": "elements without a function"}
    _lines(axes, "routing", {label: history.series[name] for name, label in names.items() if name in history.series})
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _lines(axes: Axes, title: str, series: Mapping[str, Series], legend: bool = True) -> None:
    for colour, (label, found) in zip(_cycle(len(series)), series.items(), strict=True):
        _line(axes, found, color=colour, label=label)
    _finish(axes, title, legend)


def _use(axes: Axes, title: str, uses: Mapping[str, Series]) -> None:
    """Shares of a script's compatibility, one above the other."""
    steps = next(iter(uses.values()))[0]
    colours = _cycle(len(uses)) if len(uses) <= len(COLOURS) else _shades(len(uses))
    if len(steps) == 1:  # an area needs a width
        steps, uses = [steps[0] - 0.5, steps[0] + 0.5], {name: (s, v * 2) for name, (s, v) in uses.items()}
    axes.stackplot(steps, [values for _, values in uses.values()], labels=list(uses), colors=colours, linewidth=0)
    axes.set_ylim(0, 1)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _finish(axes, title, legend=False)
    if len(uses) <= SHOWN:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), handlelength=1)
    else:
        axes.set_title(f"{title} (f0 to f{len(uses) - 1}, from below)", loc="left")


def _mark_warnings(axes: Axes, history: History) -> None:
    if history.warnings:
        at_the_foot = axes.get_xaxis_transform()
        axes.plot(history.warnings, [0.02] * len(history.warnings), linestyle="", marker="^", markersize=5, color=GREY,
                  transform=at_the_foot, label="warning", clip_on=False)  # fmt: skip
        axes.legend()


def _line(axes: Axes, series: Series, **style: object) -> None:
    """A line; few points are marked, since a line through one of them would not be seen."""
    few = {"marker": "o", "markersize": 3.5} if len(series[0]) < 4 else {}
    axes.plot(*series, **(few | style))  # pyright: ignore[reportArgumentType]


def _finish(axes: Axes, title: str, legend: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    if legend and axes.get_legend_handles_labels()[1]:
        axes.legend()


def _scripts(history: History) -> dict[str, dict[str, Series]]:
    """{"script0": {"f0": its use}}"""
    scripts: dict[str, dict[str, Series]] = {}
    for name, series in history.under("routing/use/").items():
        script, _, function = name.partition("/")
        scripts.setdefault(script, {})[function] = series
    return scripts


def _cycle(number: int, start: int = 0) -> list[str]:
    return [COLOURS[(start + place) % len(COLOURS)] for place in range(number)]


def _shades(number: int) -> list[tuple[float, float, float, float]]:
    """More colours than can be named, dark and light in turn so that neighbours differ."""
    import matplotlib

    ramp = matplotlib.colormaps["viridis"]
    return [ramp((place / 2 if place % 2 == 0 else (place + number) / 2) / number) for place in range(number)]
