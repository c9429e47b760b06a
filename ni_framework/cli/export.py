"""`ni export`: writes functions of a trained model, or its difference from another one, to a file."""

from __future__ import annotations

from pathlib import Path

import click

from ni_framework.cli.output import emit, json_option
from ni_framework.errors import UsageError


@click.command("export")
@click.argument("checkpoint")
@click.option(
    "--functions",
    metavar="F[,F]",
    help="Export these functions, for example f1,f2, with their body and its lockfile entries.",
)
@click.option("--delta", metavar="BASE", help="Export only the difference from the checkpoint BASE.")
@click.option(
    "--script", type=int, metavar="N", help="The script of the functions, counted from 0 (default: the only one)."
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to write; it must not exist yet."
)
@json_option
def command(
    checkpoint: str, functions: str | None, delta: str | None, script: int | None, output: Path, as_json: bool
) -> None:
    """Write functions of CHECKPOINT, or its difference from BASE, to a safetensors file.

    ni grow --import adds the functions to another model of equal sizes, or restores the full model from BASE and the
    difference, which is called a delta.
    """
    if (functions is None) == (delta is None):
        raise UsageError("give exactly one of --functions and --delta, which select what to export")
    from ni_framework.checkpoint.loaded_checkpoint import LoadedCheckpoint
    from ni_framework.growth.export import bundle_functions, compute_delta, save_export
    from ni_framework.growth.plan import parse_functions

    loaded_checkpoint = LoadedCheckpoint.load(checkpoint)
    if functions is not None:
        bundle = bundle_functions(
            loaded_checkpoint, parse_functions(functions.split(","), loaded_checkpoint.recipe, script)
        )
    else:
        assert delta is not None
        bundle = compute_delta(loaded_checkpoint, LoadedCheckpoint.load(delta))
    save_export(output, bundle)
    size = output.stat().st_size
    emit({"file": str(output), "bytes": size, "tensors": len(bundle.tensors)}, f"{output}: {size:,} bytes", as_json)
