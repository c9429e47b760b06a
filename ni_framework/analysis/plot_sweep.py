"""How cost grows with a key of the recipe, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ni_framework.analysis.bench import Row
from ni_framework.analysis.plot_run import COLOURS, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = {"dense": "o", "packed": "s", "compiled": "^"}


def plot_sweep(name: str, key: str, measured: Mapping[str, Sequence[Row]]) -> bytes:
    """A PNG: milliseconds of a training step and bytes kept for each image, by the value of the key, a line an execution."""
    return png(lambda: _figure(name, key, measured))


def _figure(name: str, key: str, measured: Mapping[str, Sequence[Row]]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(10, 3.6), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    figure.suptitle(f"{name}: how cost grows with {key}", fontsize=11, fontweight="bold")
    time, memory = figure.subplots(1, 2)
    values = [value.partition("=")[2] for value in measured]
    rows = [{row.execution: row for row in of if row.mode == "training"} for of in measured.values()]
    executions = [execution for execution in MARKS if any(execution in of for of in rows)]
    for colour, execution in zip(COLOURS, executions, strict=False):
        here = [(place, of[execution]) for place, of in zip(_places(values), rows, strict=True) if execution in of]
        style = {"color": colour, "marker": MARKS[execution], "label": execution}
        time.plot([place for place, _ in here], [row.milliseconds for _, row in here], **style)
        kept = [(place, row.saved_bytes / row.batch / 1e6) for place, row in here if row.saved_bytes is not None]
        memory.plot([place for place, _ in kept], [megabytes for _, megabytes in kept], **style)
    _finish(time, "training step, milliseconds", key, values)
    _finish(memory, "kept for the way back, MB an image", key, values)
    return figure


def _places(values: Sequence[str]) -> list[float]:
    """Where values stand on the axis: numbers where they are, anything else one after the other."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return [float(place) for place in range(len(values))]


def _finish(axes: Axes, title: str, key: str, values: Sequence[str]) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel(key)
    axes.set_xticks(_places(values), values)
    axes.set_ylim(bottom=0)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc="upper left")
