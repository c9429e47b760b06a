"""`ni train`: from a recipe to a trained model."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from ni_framework.cli.output import emit, json_option, narrate, overrides_argument, table


@click.command("train")
@click.argument("recipe")
@overrides_argument
@click.option("--output", metavar="DIR", help="The run folder (default: runs/<recipe>/<time>).")
@click.option("--every", type=click.IntRange(min=1), metavar="STEPS", help="Steps between two checkpoints.")
@click.option("--from", "start", metavar="CHECKPOINT", help="Begin with this checkpoint's weights.")
@json_option
def command(
    recipe: str, overrides: tuple[str, ...], output: str | None, every: int | None, start: str | None, as_json: bool
) -> None:
    """Train RECIPE's model, evaluate it on the held-out part, and save it."""
    from ni_framework.registry import load_recipe

    checked = load_recipe(recipe, overrides)

    from ni_framework.cli.progress import Progress
    from ni_framework.engine.trainer import train

    run = Path(output) if output else Path("runs") / checked.name / f"{datetime.now():%Y%m%d-%H%M%S}"
    with Progress() as progress:
        summary = train(checked, run, every=every, start=start, listeners=[progress])
    tests = [
        (name.replace("test/", "held-out "), _shown(name, value))
        for name, value in summary["metrics"].items()
        if name.startswith("test/")
    ]
    rows = [
        *tests,
        ("training", f"{summary['seconds']:.1f} s"),
        ("run", summary["run"]),
        ("checkpoint", summary["checkpoint"]),
    ]
    emit(summary, table(rows), as_json)
    narrate(f"next: ni eval {summary['run']}")


def _shown(name: str, value: float) -> str:
    return f"{value:.2%}" if "accuracy" in name else f"{value:.4f}"
