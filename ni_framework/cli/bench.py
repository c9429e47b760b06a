"""`ni bench`: how fast is a recipe's model here?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ni_framework.cli.output import emit, in_bytes, json_option, narrate, overrides_argument, table
from ni_framework.errors import UsageError

ALL = ("dense", "packed", "compiled")


@click.command("bench")
@click.argument("recipe")
@overrides_argument
@click.option(
    "--execution",
    "executions",
    multiple=True,
    type=click.Choice(ALL),
    help="What to measure; may be given several times (default: all three, in a sweep dense and packed).",
)
@click.option(
    "--batch", type=click.IntRange(min=1), metavar="N", help="Images in a batch (default: the recipe's, at most 32)."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Steps of each kind; medians are shown."
)
@click.option(
    "--sweep", metavar="KEY=V1,V2,...", help="Measure the recipe with each of these values, and draw how cost grows."
)
@click.option("--output", metavar="FILE", help="The PNG of a sweep (default: sweep.png).")
@json_option
def command(
    recipe: str,
    overrides: tuple[str, ...],
    executions: tuple[str, ...],
    batch: int | None,
    rounds: int,
    sweep: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Measure RECIPE's model on random inputs: images per second, memory, and the share of this machine's matrix rate.

    Beside it stands a transformer of equal width, elements and operations. No data is opened.
    """
    from ni_framework.registry import load_recipe
    from ni_framework.utils.malloc import keep_freed_memory

    if output is not None and sweep is None:
        raise UsageError("--output names the plot of a sweep; give --sweep too")
    checked = load_recipe(recipe, overrides)
    key, values = _sweep(sweep) if sweep is not None else ("", [])
    recipes = {value: load_recipe(recipe, [*overrides, value]) for value in values}  # all, before any is measured
    keep_freed_memory()

    from ni_framework.analysis.bench import document

    batch = batch or min(checked.train.batch, 32)
    if sweep is None:
        rows = _measured(checked, executions or ALL, batch, rounds, checked.name)
        emit({"rows": document(rows)}, _table(rows), as_json)
        return
    from ni_framework.analysis.plot_sweep import plot_sweep
    from ni_framework.utils.atomic_files import replace_file

    measured = {
        value: _measured(of, executions or ("dense", "packed"), batch, rounds, value, transformer=False)
        for value, of in recipes.items()
    }
    place = Path(output or "sweep.png")
    replace_file(place, plot_sweep(checked.name, key, measured))
    text = "\n\n".join(f"{value}\n{_table(rows)}" for value, rows in measured.items())
    rows = [row | {"sweep": value} for value, of in measured.items() for row in document(of)]
    emit({"rows": rows, "plot": str(place)}, f"{text}\n\n{place}", as_json)


def _sweep(values: str) -> tuple[str, list[str]]:
    """The key and the overrides in `key=1,2,4`. Raises `UsageError` for what is none."""
    key, equals, listed = values.partition("=")
    found = [value.strip() for value in listed.split(",")]
    if not equals or not key or not all(found) or len(found) < 2:
        raise UsageError(f"--sweep {values}: expected a key and values, as in model.functions=1,2,4,8,16")
    return key, [f"{key}={value}" for value in found]


def _measured(
    recipe: Any, executions: Sequence[str], batch: int, rounds: int, name: str, transformer: bool = True
) -> list[Any]:
    """The rows of one recipe; a bar on a terminal shows how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ni_framework.analysis.bench import MODES, WARM_UP, measure, subjects_of

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    rows: list[Any] = []
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(f"{name}: building", total=None)
        if not console.is_terminal:
            narrate(f"{name}: measuring {', '.join(executions)}, {rounds} rounds of {batch} images")
        subjects = subjects_of(recipe, executions, batch, narrate, transformer)
        bar.update(task, description=name, total=(WARM_UP + rounds) * len(subjects) * len(MODES))
        for done, rows in measure(subjects, rounds):  # noqa: B007
            bar.update(task, completed=done)
    return rows


def _table(rows: Sequence[Any]) -> str:
    header = ("model", "execution", "mode", "batch", "ms", "images/s", "of matrix rate", "open", "kept/image", "peak")
    return table(
        [
            (
                row.model,
                row.execution,
                row.mode,
                str(row.batch),
                f"{row.milliseconds:.4g}",
                f"{row.images_per_second:,.4g}",
                f"{row.share_of_matrix_rate:.0%}",
                f"{row.open_fraction:.0%}",
                in_bytes((row.saved_bytes or 0) / row.batch),
                in_bytes(row.peak_bytes),
            )
            for row in rows
        ],
        header,
    )
