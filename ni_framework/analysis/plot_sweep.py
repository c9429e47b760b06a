"""Plots how the cost of a model depends on a key of the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ni_framework.analysis.bench import BenchRow
from ni_framework.analysis.plot_run import COLOURS, render_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {"dense": "o", "packed": "s", "compiled": "^"}


def plot_sweep(name: str, key: str, measured: Mapping[str, Sequence[BenchRow]]) -> bytes:
    """Plots the time of a training step and the activation memory per image against the values of a recipe key.

    Args:
        name: The name of the recipe.
        key: The recipe key that was varied.
        measured: The rows of each override, such as "model.functions=4"; each execution becomes one line.

    Returns:
        The content of a PNG file.
    """
    return render_png(lambda: _draw_sweep(name, key, measured))


def _draw_sweep(name: str, key: str, measured: Mapping[str, Sequence[BenchRow]]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(10, 3.6), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    figure.suptitle(f"{name}: how cost grows with {key}", fontsize=11, fontweight="bold")
    time_axes, memory_axes = figure.subplots(1, 2)
    values = [value.partition("=")[2] for value in measured]
    training_rows = [{row.execution: row for row in rows if row.mode == "training"} for rows in measured.values()]
    executions = [execution for execution in MARKERS if any(execution in rows for rows in training_rows)]
    for colour, execution in zip(COLOURS, executions, strict=False):
        points = [
            (position, rows[execution])
            for position, rows in zip(_axis_positions(values), training_rows, strict=True)
            if execution in rows
        ]
        style = {"color": colour, "marker": MARKERS[execution], "label": execution}
        time_axes.plot([position for position, _ in points], [row.milliseconds for _, row in points], **style)
        memory_points = [
            (position, row.saved_bytes / row.batch / 1e6) for position, row in points if row.saved_bytes is not None
        ]
        memory_axes.plot(
            [position for position, _ in memory_points], [megabytes for _, megabytes in memory_points], **style
        )
    _finish_sweep_axes(time_axes, "training step, milliseconds", key, values)
    _finish_sweep_axes(memory_axes, "activations saved for backward, MB per image", key, values)
    return figure


def _axis_positions(values: Sequence[str]) -> list[float]:
    """Returns the positions of values on the axis: numbers at their value, other values evenly spaced."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return [float(position) for position in range(len(values))]


def _finish_sweep_axes(axes: Axes, title: str, key: str, values: Sequence[str]) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel(key)
    axes.set_xticks(_axis_positions(values), values)
    axes.set_ylim(bottom=0)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc="upper left")
