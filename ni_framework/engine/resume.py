"""Where a run can go on: its newest good checkpoint, and what may change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
from attrs import frozen

from ni_framework.engine.checkpoint import MANIFEST, RECIPE, checkpoints_of, find_checkpoint, read_manifest
from ni_framework.errors import CheckpointError, UsageError
from ni_framework.recipe import Recipe
from ni_framework.registry import load_recipe

MAY_CHANGE = ("train.steps", "train.log_every", "train.evaluate_every")  # without changing the steps already done


@frozen
class Resumption:
    """A checkpoint to go on from, its recipe with what has changed, and what was noticed on the way."""

    checkpoint: Path
    recipe: Recipe
    run: Path | None  # the run that it is the newest of; None: nothing can go on there
    step: int
    seconds: float  # of training so far
    metrics: dict[str, float]  # of the last line before it
    damaged: tuple[str, ...]  # checkpoints that were passed over, each with the reason


def find_resumption(path: str, overrides: Sequence[str] = ()) -> Resumption:
    """The newest good checkpoint of a run folder, or the one that is named.

    Raises `CheckpointError` if there is none, and `UsageError` if its run is complete, if a newer one is there, or for an
    override of what must not change.
    """
    for override in overrides:
        key = override.partition("=")[0]
        if key not in MAY_CHANGE:
            raise UsageError(
                f"{override}: a resumed run goes on as it began; only {', '.join(MAY_CHANGE)} may change; "
                "to train these weights otherwise, use ni train RECIPE --from"
            )
    checkpoint, damaged = _newest_good(Path(path))
    manifest = read_manifest(checkpoint)
    recipe = attrs.evolve(load_recipe(checkpoint / RECIPE, overrides), name=str(manifest.get("name", "recipe")))
    step, steps = int(manifest["step"]), recipe.train.steps
    if step > steps:
        raise UsageError(f"{checkpoint}: has done {step} steps already, more than train.steps={steps}; raise it")
    if step == steps and any(name.startswith("test/") for name in manifest["metrics"]):
        raise UsageError(f"{checkpoint}: has done all of its {steps} steps; raise train.steps to go on")
    metrics = {name: value for name, value in manifest["metrics"].items() if name.startswith("train/")}
    return Resumption(
        checkpoint, recipe, _run_of(checkpoint, damaged), step, float(manifest["seconds"]), metrics, damaged
    )


def _run_of(checkpoint: Path, damaged: Sequence[str]) -> Path | None:
    """The run folder that a checkpoint lies in, unless steps after it are there already."""
    run = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints":
        return None
    return run if checkpoints_of(run)[-1 - len(damaged)] == checkpoint else None


def _newest_good(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The checkpoint itself if one is named; of a run, the newest whose files agree with their checksums."""
    if not path.exists() or (path / MANIFEST).is_file() or not checkpoints_of(path):
        return find_checkpoint(path), ()
    damaged: list[str] = []
    for folder in reversed(checkpoints_of(path)):
        try:
            read_manifest(folder)
        except CheckpointError as error:
            damaged.append(str(error))
        else:
            return folder, tuple(damaged)
    raise CheckpointError("\n".join([f"{path}: none of its checkpoints is whole", *damaged]))
