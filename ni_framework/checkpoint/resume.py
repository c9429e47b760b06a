"""Where a run can be resumed: its newest intact checkpoint, and what may change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from ni_framework.checkpoint.load import check_golden, read_recipe
from ni_framework.checkpoint.manifest import MANIFEST_FILE, Manifest, check_files, read_manifest
from ni_framework.checkpoint.run_dir import (
    CHECKPOINTS_DIR,
    find_checkpoint,
    find_latest_valid,
    list_checkpoints,
    read_latest,
)
from ni_framework.distributed.communicator import SINGLE_PROCESS, Communicator, RemoteRankError
from ni_framework.errors import CheckpointError, UsageError
from ni_framework.recipe import Recipe

# Settings that may change on resuming, because the steps already done do not depend on them.
RESUME_OVERRIDES = (
    "train.steps",
    "train.log_every",
    "train.evaluate_every",
    "train.workers",
    "train.micro_batches",
    "train.activation_checkpointing",
    "train.skip.max_consecutive",
)


@frozen
class ResumePoint:
    """A checkpoint to resume from, and its recipe with the overrides.

    `messages` name damaged checkpoints that were skipped, each with the reason, and code that has changed since.
    """

    checkpoint: Path
    manifest: Manifest
    recipe: Recipe
    messages: tuple[str, ...]
    skipped_damaged: bool


def resolve_symlink(path: Path) -> Path:
    """Returns the target of a symbolic link: `runs/latest` may point elsewhere by the time that it is read again."""
    return Path(os.path.relpath(path.resolve())) if path.is_symlink() else path


def find_run_dir(path: Path) -> Path | None:
    """Returns the run folder of a path: the path itself, or the run folder that contains the checkpoint; None if neither."""
    if (path / CHECKPOINTS_DIR).is_dir():
        return path
    is_in_run = path.parent.name == CHECKPOINTS_DIR and (path / MANIFEST_FILE).is_file()
    return path.parent.parent if is_in_run else None


def read_resume_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Returns the recipe that a run is resumed with: of the named checkpoint, or of the newest that can be read."""
    _check_overrides(overrides)
    newest = find_checkpoint(path)
    for folder in reversed(list_checkpoints(path)):
        try:
            return read_recipe(folder, read_manifest(folder), overrides)
        except CheckpointError:
            continue
    return read_recipe(newest, read_manifest(newest), overrides)


def find_resume_point(path: Path, overrides: Sequence[str] = (), comm: Communicator = SINGLE_PROCESS) -> ResumePoint:
    """Finds the checkpoint to resume from: the named one, or the newest intact one of a run folder.

    Args:
        path: A checkpoint or a run folder.
        overrides: Changes of the recipe.
        comm: The ranks that resume together; each checks a share of the files.

    Raises:
        CheckpointError: There is no intact checkpoint.
        UsageError: The run is complete, or an override changes what must stay the same.
    """
    _check_overrides(overrides)

    def check(folder: Path) -> Manifest:
        try:
            with comm.fail_together():
                return check_files(folder, slice(comm.rank, None, comm.world_size))
        except RemoteRankError as error:
            if error.exit_code != CheckpointError.exit_code:
                raise
            raise CheckpointError(str(error).partition(": ")[2]) from error

    # Rank 0 looks for all ranks, because another run may be writing there.
    named_checkpoint, candidates, newest = comm.broadcast_from_rank_zero(lambda: _list_candidates(path))
    if named_checkpoint is None:
        known_checkpoints = [Path(folder) for folder in candidates], Path(newest) if newest else None
        checkpoint, manifest, damaged = find_latest_valid(path, check, known_checkpoints)
    else:
        checkpoint, damaged = Path(named_checkpoint), []
        manifest = check(checkpoint)
    messages = [f"skipped a checkpoint: {fault}" for fault in damaged]
    with comm.fail_together():
        message = check_golden(checkpoint, manifest) if comm.is_rank_zero else None
    if message:
        messages.append(message)
    recipe = read_recipe(checkpoint, manifest, overrides)
    step, steps = manifest.step, recipe.train.steps
    if step > steps:
        raise UsageError(f"{checkpoint}: has done {step} steps already, more than train.steps={steps}; raise it")
    if step == steps and manifest.evaluated:
        raise UsageError(f"{checkpoint}: has done all of its {steps} steps; raise train.steps to continue")
    return ResumePoint(checkpoint, manifest, recipe, tuple(messages), bool(damaged))


def _list_candidates(path: Path) -> tuple[str | None, list[str], str | None]:
    """Returns the named checkpoint; or None, the checkpoints of a run folder, and the one recorded as the newest."""
    if path.exists() and not (path / MANIFEST_FILE).is_file() and (candidates := list_checkpoints(path)):
        newest = read_latest(path)
        return None, [str(folder) for folder in candidates], str(newest) if newest else None
    return str(find_checkpoint(path)), [], None


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        if key not in RESUME_OVERRIDES and key.partition(".")[0] != "engine":
            raise UsageError(
                f"{override}: a resumed run keeps its settings; only {', '.join(RESUME_OVERRIDES)} and engine may change; "
                "to train these weights with other settings, use ni train RECIPE --from"
            )


def check_resume_in_place(resume_point: ResumePoint, run: Path) -> None:
    """Raises `UsageError` if a run cannot be resumed in place from a checkpoint, because it has later checkpoints."""
    later = list_checkpoints(run)[-1]
    if resume_point.checkpoint.resolve() != later.resolve() and not resume_point.skipped_damaged:
        raise UsageError(
            f"{resume_point.checkpoint}: its run has the later checkpoint {later.name}; name a new run folder with --output"
        )
