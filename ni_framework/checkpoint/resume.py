"""Where a run can go on: its newest good checkpoint, and what may change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from ni_framework.checkpoint.load import proven, read_recipe
from ni_framework.checkpoint.manifest import MANIFEST, Manifest, check_files, read_manifest
from ni_framework.checkpoint.run_dir import CHECKPOINTS, checkpoints_of, find_checkpoint, newest_good, pointed_to
from ni_framework.distributed.communicator import ALONE, Elsewhere, Team
from ni_framework.errors import CheckpointError, UsageError
from ni_framework.recipe import Recipe

# Without changing the steps already done.
MAY_CHANGE = (
    "train.steps",
    "train.log_every",
    "train.evaluate_every",
    "train.workers",
    "train.accumulate",
    "train.recompute",
    "train.skip.budget",
)


@frozen
class Resumption:
    """A checkpoint to go on from, its recipe with what has changed, and what was noticed on the way."""

    checkpoint: Path
    manifest: Manifest
    recipe: Recipe
    notes: tuple[str, ...]  # checkpoints that were passed over, each with the reason, and what has changed since
    passed_over: bool


def followed(path: Path) -> Path:
    """A path with its link followed: by the time that it is read again, `runs/latest` may lead elsewhere."""
    return Path(os.path.relpath(path.resolve())) if path.is_symlink() else path


def run_of(path: Path) -> Path | None:
    """The run folder that a path means: the folder itself, or the one that the checkpoint lies in."""
    if (path / CHECKPOINTS).is_dir():
        return path
    inside = path.parent.name == CHECKPOINTS and (path / MANIFEST).is_file()
    return path.parent.parent if inside else None


def recipe_of(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a run goes on with: the newest that can be read, or that of the checkpoint that is named."""
    _check_overrides(overrides)
    newest = find_checkpoint(path)
    for folder in reversed(checkpoints_of(path)):
        try:
            return read_recipe(folder, read_manifest(folder), overrides)
        except CheckpointError:
            continue
    return read_recipe(newest, read_manifest(newest), overrides)


def find_resumption(path: Path, overrides: Sequence[str] = (), team: Team = ALONE) -> Resumption:
    """The newest good checkpoint of a run folder, or the one that is named; a team shares the work of looking at its files.

    Raises `CheckpointError` if there is none, and `UsageError` if its run is complete or for an override of what must not
    change.
    """
    _check_overrides(overrides)

    def check(folder: Path) -> Manifest:
        try:
            with team.agreed():
                return check_files(folder, slice(team.rank, None, team.size))
        except Elsewhere as error:
            if error.exit_code != CheckpointError.exit_code:
                raise
            raise CheckpointError(str(error).partition(": ")[2]) from error

    one, several, newest = team.lead(lambda: _seen(path))  # by one for all: another run may be writing there
    if one is None:
        seen = [Path(folder) for folder in several], Path(newest) if newest else None
        checkpoint, manifest, damaged = newest_good(path, check, seen)
    else:
        checkpoint, damaged = Path(one), []
        manifest = check(checkpoint)
    notes = [f"passed over a checkpoint: {fault}" for fault in damaged]
    with team.agreed():
        note = proven(checkpoint, manifest) if team.leads else None
    if note:
        notes.append(note)
    recipe = read_recipe(checkpoint, manifest, overrides)
    step, steps = manifest.step, recipe.train.steps
    if step > steps:
        raise UsageError(f"{checkpoint}: has done {step} steps already, more than train.steps={steps}; raise it")
    if step == steps and manifest.evaluated:
        raise UsageError(f"{checkpoint}: has done all of its {steps} steps; raise train.steps to go on")
    return Resumption(checkpoint, manifest, recipe, tuple(notes), bool(damaged))


def _seen(path: Path) -> tuple[str | None, list[str], str | None]:
    """The checkpoint that is named; or else those of a run folder, and which of them should be the newest."""
    if path.exists() and not (path / MANIFEST).is_file() and (several := checkpoints_of(path)):
        newest = pointed_to(path)
        return None, [str(folder) for folder in several], str(newest) if newest else None
    return str(find_checkpoint(path)), [], None


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        if key not in MAY_CHANGE and key.partition(".")[0] != "engine":
            raise UsageError(
                f"{override}: a resumed run goes on as it began; only {', '.join(MAY_CHANGE)} and engine may change; "
                "to train these weights otherwise, use ni train RECIPE --from"
            )


def check_in_place(resumption: Resumption, run: Path) -> None:
    """Raises `UsageError` if a run cannot go on in place from a checkpoint, because steps after it are there already."""
    later = checkpoints_of(run)[-1]
    if resumption.checkpoint.resolve() != later.resolve() and not resumption.passed_over:
        raise UsageError(
            f"{resumption.checkpoint}: its run has gone on to {later.name}; name a new run folder with --output"
        )
