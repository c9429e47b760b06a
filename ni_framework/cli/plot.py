"""`ni plot`: a run as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from ni_framework.cli.output import emit, json_option


@click.command("plot")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--output", metavar="FILE", help="The PNG to write (default: plot.png in the first RUN).")
@json_option
def command(runs: tuple[str, ...], output: str | None, as_json: bool) -> None:
    """Draw RUN's loss, accuracy or R^2, learning rate, routing and use of functions as one PNG, also while it goes on.

    Several RUNs are compared by the first two.
    """
    from ni_framework.analysis.plot_run import plot_runs
    from ni_framework.utils.atomic_files import replace_file

    folders = list(dict.fromkeys(map(Path, runs)))
    content = plot_runs(folders)
    place = Path(output) if output else folders[0] / "plot.png"
    replace_file(place, content)
    emit({"plot": str(place)}, str(place), as_json)
