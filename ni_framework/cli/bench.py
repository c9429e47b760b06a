"""`ni bench`: measures how fast the model of a recipe is on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ni_framework.cli.output import emit, format_bytes, format_table, json_option, overrides_argument, print_status
from ni_framework.errors import UsageError

EXECUTIONS = ("dense", "packed", "compiled")


@click.command("bench")
@click.argument("recipe")
@overrides_argument
@click.option(
    "--execution",
    "executions",
    multiple=True,
    type=click.Choice(EXECUTIONS),
    help="The execution to measure. The option may be repeated (default: all three; dense and packed in a sweep).",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="The number of images in a batch (default: that of the recipe, at most 32).",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    metavar="N",
    default=5,
    show_default=True,
    help="The number of steps to measure for each row; the table shows medians.",
)
@click.option(
    "--sweep", metavar="KEY=V1,V2,...", help="Measure the recipe with each of these values of KEY, and plot the cost."
)
@click.option("--output", metavar="FILE", help="The PNG file of a sweep (default: sweep.png).")
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
    """Measure the model of RECIPE on random inputs: images per second, memory, and FLOP/s in percent of a large matmul.

    For comparison, a transformer with the same width, number of elements and FLOPs is measured, too. No data is opened.
    """
    from ni_framework.registry import load_recipe
    from ni_framework.utils.malloc import keep_freed_memory

    if output is not None and sweep is None:
        raise UsageError("--output names the plot of a sweep; give --sweep too")
    loaded_recipe = load_recipe(recipe, overrides)
    key, values = _parse_sweep(sweep) if sweep is not None else ("", [])
    # All recipes are checked before the first one is measured.
    recipes = {value: load_recipe(recipe, [*overrides, value]) for value in values}
    keep_freed_memory()

    from ni_framework.analysis.bench import rows_to_json

    batch = batch or min(loaded_recipe.train.batch, 32)
    if sweep is None:
        rows = _measure_recipe(loaded_recipe, executions or EXECUTIONS, batch, rounds, loaded_recipe.name)
        emit({"rows": rows_to_json(rows)}, _format_bench_table(rows), as_json)
        return
    from ni_framework.analysis.plot_sweep import plot_sweep
    from ni_framework.utils.atomic_files import atomic_write

    rows_by_value = {
        value: _measure_recipe(swept, executions or ("dense", "packed"), batch, rounds, value, transformer=False)
        for value, swept in recipes.items()
    }
    plot_path = Path(output or "sweep.png")
    atomic_write(plot_path, plot_sweep(loaded_recipe.name, key, rows_by_value))
    text = "\n\n".join(f"{value}\n{_format_bench_table(rows)}" for value, rows in rows_by_value.items())
    documents = [row | {"sweep": value} for value, rows in rows_by_value.items() for row in rows_to_json(rows)]
    emit({"rows": documents, "plot": str(plot_path)}, f"{text}\n\n{plot_path}", as_json)


def _parse_sweep(values: str) -> tuple[str, list[str]]:
    """Splits `key=1,2,4` into the key and one override for each value. Raises `UsageError` if the text is invalid."""
    key, equals, value_list = values.partition("=")
    sweep_values = [value.strip() for value in value_list.split(",")]
    if not equals or not key or not all(sweep_values) or len(sweep_values) < 2:
        raise UsageError(f"--sweep {values}: expected a key and values, as in model.functions=1,2,4,8,16")
    return key, [f"{key}={value}" for value in sweep_values]


def _measure_recipe(
    recipe: Any, executions: Sequence[str], batch: int, rounds: int, name: str, transformer: bool = True
) -> list[Any]:
    """Measures one recipe and returns its rows; shows a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ni_framework.analysis.bench import MODES, WARM_UP_ROUNDS, build_subjects, measure_subjects

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
            print_status(f"{name}: measuring {', '.join(executions)}, {rounds} rounds of {batch} images")
        subjects = build_subjects(recipe, executions, batch, print_status, transformer)
        bar.update(task, description=name, total=(WARM_UP_ROUNDS + rounds) * len(subjects) * len(MODES))
        for done, rows in measure_subjects(subjects, rounds):  # noqa: B007
            bar.update(task, completed=done)
    return rows


def _format_bench_table(rows: Sequence[Any]) -> str:
    header = (
        "model",
        "execution",
        "mode",
        "batch",
        "ms",
        "images/s",
        "% of peak matmul",
        "open",
        "activations/image",
        "peak",
    )
    return format_table(
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
                format_bytes((row.saved_bytes or 0) / row.batch),
                format_bytes(row.peak_bytes),
            )
            for row in rows
        ],
        header,
    )
