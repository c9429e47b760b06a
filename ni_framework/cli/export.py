"""`ni export`: functions of a trained model, or what it has otherwise than another, as a file."""

from __future__ import annotations

from pathlib import Path

import click

from ni_framework.cli.output import emit, json_option
from ni_framework.errors import UsageError


@click.command("export")
@click.argument("checkpoint")
@click.option("--functions", metavar="F[,F]", help="These functions, as in f1,f2, with their body and lock.")
@click.option("--delta", metavar="BASE", help="What differs from the checkpoint BASE, and nothing else.")
@click.option("--script", type=int, help="The functions' script, counted from 0; default: the only one.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The new file.")
@json_option
def command(
    checkpoint: str, functions: str | None, delta: str | None, script: int | None, output: Path, as_json: bool
) -> None:
    """Write functions of CHECKPOINT, or what it has otherwise than BASE, to a file of safetensors.

    ni grow --import brings functions into another model of equal sizes, and makes the whole model of a delta and its base.
    """
    if (functions is None) == (delta is None):
        raise UsageError("say what to export: --functions or --delta, one of them")
    from ni_framework.checkpoint.loaded_checkpoint import Whole
    from ni_framework.growth.export import delta_of, functions_of, write_parcel
    from ni_framework.growth.plan import functions_named

    whole = Whole.of(checkpoint)
    if functions is not None:
        parcel = functions_of(whole, functions_named(functions.split(","), whole.recipe, script))
    else:
        assert delta is not None
        parcel = delta_of(whole, Whole.of(delta))
    write_parcel(output, parcel)
    size = output.stat().st_size
    emit({"file": str(output), "bytes": size, "tensors": len(parcel.tensors)}, f"{output}: {size:,} bytes", as_json)
