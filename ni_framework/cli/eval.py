"""`ni eval`: evaluates a checkpoint."""

from __future__ import annotations

import click

from ni_framework.cli.output import emit, format_table, json_option, overrides_argument, print_status


@click.command("eval")
@click.argument("checkpoint")
@overrides_argument
@json_option
def command(checkpoint: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Evaluate CHECKPOINT, which is a checkpoint or a run folder, on its held-out data.

    Overrides may change settings that do not affect parameters, such as model.iterations=8.
    """
    from ni_framework.checkpoint.load import load_checkpoint
    from ni_framework.checkpoint.run_dir import find_checkpoint
    from ni_framework.evaluation.evaluate import evaluate_model
    from ni_framework.model.compose import build_data

    folder = find_checkpoint(checkpoint)
    model, recipe = load_checkpoint(folder, overrides, print_status)
    metrics = evaluate_model(model, build_data(recipe).open()["test"])
    rows = [(name, f"{value:.4f}") for name, value in metrics.items()]
    emit({"checkpoint": str(folder), "metrics": metrics}, format_table(rows), as_json)
