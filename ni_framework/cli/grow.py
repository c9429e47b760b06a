"""`ni grow`: adds capacity to a trained model, or removes some."""

from __future__ import annotations

from pathlib import Path

import click

from ni_framework.cli.output import emit, format_table, json_option, overrides_argument, print_status


@click.command("grow")
@click.argument("checkpoint")
@overrides_argument
@click.option(
    "--add",
    type=click.IntRange(1),
    metavar="N",
    help="Add N functions. Their gates start at 0, so the outputs do not change at first; "
    "those of functions for new tasks start at 1.",
)
@click.option(
    "--init",
    default="random",
    show_default=True,
    metavar="random|near=F,F|mirror=F,F",
    help="How the new functions are initialized: at random, near the functions F in turn, or with the signatures of F and their "
    "negated codes.",
)
@click.option(
    "--body",
    metavar="NAME",
    help="The body of the new functions, with its own weights. With near=F, these are copied from the first F if its body is "
    "the same. Default: the body of the script's own functions, sharing their weights.",
)
@click.option("--merge", metavar="OTHER[:F,F]", help="Add functions of another checkpoint together with their body.")
@click.option(
    "--import",
    "imported",
    metavar="FILE",
    help="Add functions from a file that `ni export` wrote, or apply the delta in it.",
)
@click.option(
    "--tasks",
    metavar="NAME:CLASSES[,...]",
    help="Add tasks with their CLS elements and heads. Functions that are added at the same time belong to the new tasks.",
)
@click.option("--remove", metavar="F[,F]", help="Remove these functions, for example f3,f4.")
@click.option(
    "--prune-usage-below",
    "below",
    type=click.FloatRange(0, 1),
    metavar="FRACTION",
    help="Remove the functions whose use on held-out data is below this fraction.",
)
@click.option("--iterations", type=click.IntRange(1), metavar="N", help="Set the number of iterations.")
@click.option(
    "--script",
    type=int,
    metavar="N",
    help="The script to change, counted from 0 (default: all scripts, or the only one).",
)
@click.option(
    "--freeze",
    type=click.Choice(["old", "none", "all-but-routing"]),
    default="none",
    show_default=True,
    help="What to freeze: `old` freezes all existing weights, `all-but-routing` the same except type inference, router and "
    "signatures.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The run folder to write; it must not exist yet.",
)
@json_option
def command(checkpoint: str, overrides: tuple[str, ...], output: Path, as_json: bool, **options: object) -> None:
    """Write a new run folder with a grown copy of the model in CHECKPOINT, which is a checkpoint or a run folder.

    Existing functions and tasks keep their weights and optimizer state. Adding does not change the outputs of existing tasks;
    the command measures the change and prints it. Overrides may change train, data and engine. To continue training, run
    ni train --resume OUTPUT train.steps=N.
    """
    from ni_framework.growth.grow import GrowOptions, grow_checkpoint

    document = grow_checkpoint(checkpoint, output, GrowOptions(overrides=overrides, **options), print_status)  # pyright: ignore[reportArgumentType]
    rows = [
        ("checkpoint", document["checkpoint"]),
        ("parameters", f"{document['parameters']['before']:,} -> {document['parameters']['after']:,}"),
        ("functions", ", ".join(f"{before} -> {after}" for before, after in document["functions"])),
        ("outputs on the golden batch", _format_output_drift(document["change"])),
    ]
    rows += [
        (
            f"script {added['script']}, f{added['function']}",
            f"new; open for {added['open']:.0%} of the elements of the golden batch",
        )
        for added in document["added"]
    ]
    for name, (before, after) in document.get("held_out", {}).items():
        rows.append((name, f"{before:.4f} -> {after:.4f}"))
    emit(document, format_table(rows), as_json)


def _format_output_drift(change: dict[str, float]) -> str:
    if not change["computed"]:
        exact = change["exact"]
        return "bit-identical" + (
            f" (change of {exact:.1g} in fp64 if the new functions are computed)" if exact else ""
        )
    return f"changed by up to {change['computed']:.3g}"
