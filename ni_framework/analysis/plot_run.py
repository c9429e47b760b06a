"""Plots the metrics of runs: loss, accuracy, learning rate, routing and the use of functions."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ni_framework.analysis.metrics_log import MetricSeries, MetricsLog, read_metrics_log
from ni_framework.checkpoint.manifest import read_manifest
from ni_framework.checkpoint.run_dir import list_checkpoints
from ni_framework.contracts import SUMMARY_METRICS
from ni_framework.errors import CheckpointError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito (2008), which can be distinguished with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
# The number of functions or tasks that fit into a legend.
MAX_LEGEND_NAMES = 12
# The number of legend entries that fit beside the title of a panel.
MAX_TITLE_ROW_NAMES = 3
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
    """Plots a run: loss, accuracy or 1 - MSE, learning rate, routing and use of functions; for several runs only the first two.

    Returns the content of a PNG file.
    """
    return render_png(lambda: draw_runs(dict(zip(run_names(runs), map(read_metrics_log, runs), strict=True))))


def render_png(draw: Callable[[], Figure]) -> bytes:
    """Calls `draw` with the style of all plots, and returns the figure as the content of a PNG file."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(STYLE):
        figure = draw()
        FigureCanvasAgg(figure)
        content = io.BytesIO()
        figure.savefig(content, dpi=150)
    return content.getvalue()


def draw_runs(logs: Mapping[str, MetricsLog]) -> Figure:
    """Draws the metrics of one run, or compares several runs; the keys are their names."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    single_run = next(iter(logs.values())) if len(logs) == 1 else None
    scripts = _use_by_script(single_run) if single_run else {}
    rows = 2 + (len(scripts) + 1) // 2 if single_run else 1
    figure = Figure(figsize=(10, 0.6 + 2.7 * rows), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    grid = figure.add_gridspec(rows, 2)
    loss_axes, metric_axes = (figure.add_subplot(grid[0, column]) for column in range(2))
    metric = _summary_metric(logs)
    _draw_metric(loss_axes, "loss", logs)
    _draw_metric(metric_axes, metric, logs)
    if metric == "accuracy":
        metric_axes.yaxis.set_major_formatter(_format_percent)
    named = _place_legend(metric_axes)
    if single_run is None:
        _place_legend(loss_axes, named)
        _share_step_axis([loss_axes, metric_axes], logs)
        return figure
    figure.suptitle(next(iter(logs)), fontsize=11, fontweight="bold")
    _mark_warnings(loss_axes, single_run)
    _place_legend(loss_axes, named)
    rate_axes, routing_axes = (figure.add_subplot(grid[1, column]) for column in range(2))
    _draw_learning_rate(rate_axes, single_run)
    _draw_routing(routing_axes, single_run)
    _share_step_axis([loss_axes, metric_axes, rate_axes, routing_axes], logs)
    for number, (script, uses) in enumerate(scripts.items()):
        spans_row = number % 2 == 0 and number + 1 == len(scripts)
        axes = figure.add_subplot(grid[2 + number // 2, :] if spans_row else grid[2 + number // 2, number % 2])
        _draw_function_use(axes, f"use of functions, {script}" if len(scripts) > 1 else "use of functions", uses)
    return figure


def run_names(runs: Sequence[Path]) -> list[str]:
    """Returns the names of the runs in the plot; runs that would have the same name are called by their paths."""
    names = [_plot_run_name(run) for run in runs]
    return [str(run) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def _plot_run_name(run: Path) -> str:
    """Returns "recipe/folder". Before the first checkpoint the name of the parent folder is used, by default the recipe's."""
    run = run.resolve()
    recipe = run.parent.name
    if checkpoints := list_checkpoints(run):
        # A damaged checkpoint does not prevent a plot.
        with suppress(CheckpointError):
            recipe = read_manifest(checkpoints[-1]).name
    return f"{recipe}/{run.name}"


def _summary_metric(logs: Mapping[str, MetricsLog]) -> str:
    """Returns the metric that is drawn beside the loss: the first of `SUMMARY_METRICS` that a run has."""
    names = {name.partition("/")[2] for log in logs.values() for name in log.series}
    return next((metric for metric in SUMMARY_METRICS if metric in names), SUMMARY_METRICS[0])


def _draw_metric(axes: Axes, metric: str, logs: Mapping[str, MetricsLog]) -> None:
    """Draws a metric: training as a thin line, held-out data with markers, and its single tasks, if any, as thin dashes."""
    several = len(logs) > 1
    for colour, (name, log) in zip(_colour_cycle(len(logs)), logs.items(), strict=True):
        label_prefix = f"{name}, " if several else ""
        if series := log.series.get(f"train/{metric}"):
            _plot_series(axes, series, color=colour, alpha=0.55 if several else 1, label=f"{label_prefix}training")
        held_out_colour = colour if several else COLOURS[1]
        if series := log.series.get(f"test/{metric}"):
            _plot_series(axes, series, color=held_out_colour, marker="o", markersize=4, label=f"{label_prefix}held out")
        tasks = {} if several else log.with_prefix(f"test/{metric}/")
        tasks = tasks if len(tasks) <= MAX_LEGEND_NAMES else {}
        for shade, (task, series) in zip(_colour_cycle(len(tasks), 2), tasks.items(), strict=True):
            _plot_series(
                axes, series, color=shade, linewidth=0.9, linestyle="--", marker=".", label=f"held out, {task}"
            )
    _finish_run_axes(axes, metric)


def _draw_learning_rate(axes: Axes, log: MetricsLog) -> None:
    if series := log.series.get("lr"):
        _plot_series(axes, series, color=COLOURS[0])
        axes.set_ylim(bottom=0)
    # By default matplotlib writes a common factor above the axis, where the title is.
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _finish_run_axes(axes, "learning rate")


def _draw_routing(axes: Axes, log: MetricsLog) -> None:
    labels = {"routing/open": "open pairs", "routing/orphans": "orphaned elements"}
    for colour, (name, label) in zip(COLOURS, labels.items(), strict=False):
        if series := log.series.get(name):
            _plot_series(axes, series, color=colour, label=label)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(_format_percent)
    _finish_run_axes(axes, "routing")
    _place_legend(axes)


def _draw_function_use(axes: Axes, title: str, uses: Mapping[str, MetricSeries]) -> None:
    """Draws the use of a script's functions as stacked areas."""
    by_step = [dict(zip(*series, strict=True)) for series in uses.values()]
    # Areas can be stacked only at steps that have the use of every function.
    steps: list[float] = sorted(set[int].intersection(*map(set, by_step)))
    shares = [[values[int(step)] for step in steps] for values in by_step]
    # An area needs a width.
    if len(steps) == 1:
        steps, shares = [steps[0] - 0.5, steps[0] + 0.5], [values * 2 for values in shares]
    axes.stackplot(
        steps,
        shares,
        labels=list(uses),
        colors=_colour_cycle(len(uses)),
        edgecolor="white",
        linewidth=min(0.5, 4 / len(uses)),
    )
    axes.set_ylim(0, 1)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(_format_percent)
    _finish_run_axes(axes, title)
    if len(uses) <= MAX_LEGEND_NAMES:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), handlelength=1)
    else:
        axes.set_title(f"{title} (f0 to f{len(uses) - 1}, from below)", loc="left")


def _share_step_axis(panels: Sequence[Axes], logs: Mapping[str, MetricsLog]) -> None:
    """Sets the step axis of all panels to the range from 0 to the last step of all runs, so that they can be compared."""
    last = max([1, *(step for log in logs.values() for step in log.all_steps())])
    for axes in panels:
        axes.set_xlim(-0.03 * last, 1.03 * last)


def _mark_warnings(axes: Axes, log: MetricsLog) -> None:
    if log.warning_steps:
        # With this transform, y is a fraction of the height of the panel.
        transform = axes.get_xaxis_transform()
        axes.plot(
            log.warning_steps,
            [0.02] * len(log.warning_steps),
            linestyle="",
            marker="^",
            markersize=5,
            color=GREY,
            transform=transform,
            label="warning",
            clip_on=False,
        )


def _plot_series(axes: Axes, series: MetricSeries, **style: object) -> None:
    """Draws a line. If there are few points they get markers, since a line through a single point is invisible."""
    markers = {"marker": "o", "markersize": 3.5} if len(series[0]) < 4 else {}
    axes.plot(*series, **(markers | style))  # pyright: ignore[reportArgumentType]


def _finish_run_axes(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10], min_n_ticks=1))


def _place_legend(axes: Axes, already_named: Sequence[str] = ()) -> list[str]:
    """Places the legend outside the data: beside the title if there are few names, otherwise to the right of the panel.

    Args:
        axes: The panel.
        already_named: Labels that the legend of a neighbouring panel shows.

    Returns:
        The labels of a legend to the right, which another panel need not repeat.
    """
    handles, labels = axes.get_legend_handles_labels()
    handle_of = {label: handle for label, handle in zip(labels, handles, strict=True) if label not in already_named}
    if len(handle_of) > MAX_TITLE_ROW_NAMES:
        axes.legend(handle_of.values(), handle_of, loc="upper left", bbox_to_anchor=(1, 1))
        return list(handle_of)
    if handle_of:
        axes.legend(
            handle_of.values(),
            handle_of,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=len(handle_of),
            borderpad=0,
            handlelength=1.5,
            columnspacing=1.2,
        )
    return []


def _format_percent(value: float, _: object) -> str:
    return f"{value:.3g}%" if (value := round(100 * value, 6)) else "0%"


def _use_by_script(log: MetricsLog) -> dict[str, dict[str, MetricSeries]]:
    """Returns the use of each function by script, such as {"script0": {"f0": series}}."""
    scripts: dict[str, dict[str, MetricSeries]] = {}
    for name, series in log.with_prefix("routing/use/").items():
        script, _, function = name.partition("/")
        scripts.setdefault(script, {})[function] = series
    return scripts


def _colour_cycle(number: int, start: int = 0) -> list[Any]:
    """Returns `number` different colours from position `start` of the palette.

    If the palette has too few, dark and light colours of a colour map alternate, so that neighbours differ.
    """
    if start + number <= len(COLOURS):
        return list(COLOURS[start : start + number])
    import matplotlib

    ramp = matplotlib.colormaps["viridis"]
    return [ramp((index / 2 if index % 2 == 0 else (index + number) / 2) / number) for index in range(number)]
