"""`ni grow`: a trained model with more capacity, or less."""

from __future__ import annotations

from pathlib import Path

import click

from ni_framework.cli.output import emit, json_option, narrate, overrides_argument, table


@click.command("grow")
@click.argument("checkpoint")
@overrides_argument
@click.option(
    "--add",
    type=click.IntRange(1),
    metavar="N",
    help="Add N functions, whose share begins at 0; at its full size beside another for new tasks.",
)
@click.option(
    "--init",
    default="random",
    show_default=True,
    metavar="random|near=F,F|mirror=F,F",
    help="How they begin: at random, beside functions F in turn, or with their signatures and the opposite of their codes.",
)
@click.option(
    "--body",
    metavar="NAME",
    help="What they do, with weights of their own: those that the first F has with near=F, if its body is the same. "
    "Default: what the script's own functions do, with the same weights.",
)
@click.option(
    "--merge", metavar="OTHER[:F,F]", help="Add functions of another checkpoint, with the body that they have there."
)
@click.option(
    "--import", "imported", metavar="FILE", help="Add functions that `ni export` wrote, or take over its delta."
)
@click.option(
    "--tasks",
    metavar="NAME:CLASSES[,...]",
    help="Add tasks: CLS elements and heads. Functions added with them are theirs.",
)
@click.option("--remove", metavar="F[,F]", help="Remove these functions, as in f3,f4.")
@click.option(
    "--prune-usage-below",
    "below",
    type=click.FloatRange(0, 1),
    help="Remove functions that are used less on held-out data.",
)
@click.option("--iterations", type=click.IntRange(1), help="Repeat the iteration so often.")
@click.option("--script", type=int, help="Of this script, counted from 0; default: of all, or of the only one.")
@click.option(
    "--freeze",
    type=click.Choice(["old", "none", "all-but-routing"]),
    default="none",
    show_default=True,
    help="What is not trained from now on: all there was; nothing; all there was but type inference, router and signatures.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The new run folder.")
@json_option
def command(checkpoint: str, overrides: tuple[str, ...], output: Path, as_json: bool, **asked: object) -> None:
    """Make a new run folder from CHECKPOINT (a checkpoint or a run folder), with a model that has grown.

    What was there keeps its weights and what the optimizer remembers. The answers of its tasks do not change by adding: how
    far they do is measured and printed. Overrides may change train, data and engine. Go on with ni train --resume OUTPUT
    train.steps=N.
    """
    from ni_framework.growth.grow import Asked, grow

    document = grow(checkpoint, output, Asked(overrides=overrides, **asked), narrate)  # pyright: ignore[reportArgumentType]
    rows = [
        ("checkpoint", document["checkpoint"]),
        ("parameters", f"{document['parameters']['before']:,} -> {document['parameters']['after']:,}"),
        ("functions", ", ".join(f"{before} -> {after}" for before, after in document["functions"])),
        ("answers on the golden batch", _moved(document["change"])),
    ]
    rows += [
        (
            f"script {of['script']}, f{of['function']}",
            f"is new; could take {of['open']:.0%} of the golden batch's elements",
        )
        for of in document["added"]
    ]
    for name, (before, after) in document.get("held_out", {}).items():
        rows.append((name, f"{before:.4f} -> {after:.4f}"))
    emit(document, table(rows), as_json)


def _moved(change: dict[str, float]) -> str:
    if not change["computed"]:
        exact = change["exact"]
        return "the same, to the last bit" + (f" ({exact:.1g} in fp64 with new functions at work)" if exact else "")
    return f"moved by up to {change['computed']:.3g}"
