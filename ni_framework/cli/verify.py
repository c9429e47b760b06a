"""`ni verify`: verifies that a checkpoint is complete and unchanged."""

from __future__ import annotations

import click

from ni_framework.cli.output import emit, json_option, print_status


@click.command("verify")
@click.argument("checkpoint")
@json_option
def command(checkpoint: str, as_json: bool) -> None:
    """Verify CHECKPOINT, which is a checkpoint or a run folder.

    The command compares every file with its checksum, the model's outputs on the golden batch with the saved ones, and the
    versions, components and data of this environment with those in the lockfile. If anything differs, it lists the
    differences and ends with exit code 6.
    """
    from ni_framework.checkpoint.run_dir import find_checkpoint
    from ni_framework.checkpoint.verify import verify
    from ni_framework.errors import CheckpointError

    folder = find_checkpoint(checkpoint)
    result = verify(folder)
    for reason in result.not_compared:
        print_status(f"not compared: {reason}")
    if result.differences:
        raise CheckpointError("\n  ".join([f"{folder}: differs from what was saved", *result.differences]))
    document = {"checkpoint": str(folder), "ok": True, "compared": result.compared, "not_compared": result.not_compared}
    emit(document, f"{folder}: ok; compared: {', '.join(result.compared)}", as_json)
