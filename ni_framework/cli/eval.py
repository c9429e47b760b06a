"""`ni eval`: how good is a checkpoint?"""

from __future__ import annotations

import click

from ni_framework.cli.output import emit, json_option, narrate, overrides_argument, table


@click.command("eval")
@click.argument("checkpoint")
@overrides_argument
@json_option
def command(checkpoint: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Evaluate CHECKPOINT (a checkpoint or a run folder) on the held-out part of its data.

    Overrides may change what has no parameters, as model.iterations=8.
    """
    from ni_framework.checkpoint.load import load_checkpoint
    from ni_framework.checkpoint.run_dir import find_checkpoint
    from ni_framework.evaluation.evaluate import evaluate
    from ni_framework.model.compose import build_data

    folder = find_checkpoint(checkpoint)
    model, recipe = load_checkpoint(folder, overrides, narrate)
    metrics = evaluate(model, build_data(recipe).open()["test"])
    rows = [(name, f"{value:.4f}") for name, value in metrics.items()]
    emit({"checkpoint": str(folder), "metrics": metrics}, table(rows), as_json)
