"""`ni plot`: plots the metrics of runs."""

from __future__ import annotations

from pathlib import Path

import click

from ni_framework.cli.output import emit, json_option


@click.command("plot")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--output", metavar="FILE", help="The PNG file to write (default: plot.png in the first RUN).")
@json_option
def command(runs: tuple[str, ...], output: str | None, as_json: bool) -> None:
    """Plot the loss, accuracy (or 1 - MSE), learning rate, routing and use of functions of RUN in one PNG file.

    The run may still be in progress. For several RUNs, the plot compares their losses and accuracies only.
    """
    from ni_framework.analysis.plot_run import plot_runs
    from ni_framework.utils.atomic_files import atomic_write

    folders = list(dict.fromkeys(map(Path, runs)))
    content = plot_runs(folders)
    plot_path = Path(output) if output else folders[0] / "plot.png"
    atomic_write(plot_path, content)
    emit({"plot": str(plot_path)}, str(plot_path), as_json)
