"""`ni verify`: is a checkpoint whole, and is it still what it was?"""

from __future__ import annotations

import click

from ni_framework.cli.output import emit, json_option, narrate


@click.command("verify")
@click.argument("checkpoint")
@json_option
def command(checkpoint: str, as_json: bool) -> None:
    """Compare CHECKPOINT (a checkpoint or a run folder) with what it says of itself.

    Every file with its checksum, the model's answers on the golden batch, and versions, components and data of this
    environment with those that it was made with. Ends with exit code 6 and a list if anything differs.
    """
    from ni_framework.checkpoint.run_dir import find_checkpoint
    from ni_framework.checkpoint.verify import verify
    from ni_framework.errors import CheckpointError

    folder = find_checkpoint(checkpoint)
    verdict = verify(folder)
    for reason in verdict.left_out:
        narrate(f"not compared: {reason}")
    if verdict.differences:
        raise CheckpointError("\n  ".join([f"{folder}: is not what it was", *verdict.differences]))
    document = {"checkpoint": str(folder), "ok": True, "compared": verdict.compared, "not_compared": verdict.left_out}
    emit(document, f"{folder}: ok; compared: {', '.join(verdict.compared)}", as_json)
