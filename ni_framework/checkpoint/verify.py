"""Is a checkpoint whole, and does its model still behave here as it did where it was saved?"""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from ni_framework.checkpoint.golden import golden_difference
from ni_framework.checkpoint.load import read_golden, read_lock, restored
from ni_framework.checkpoint.lockfile import lock_difference, lock_of
from ni_framework.checkpoint.manifest import check_files
from ni_framework.errors import RunError
from ni_framework.model.compose import build_data


@frozen
class Verdict:
    """What was compared, what differs, and what could not be compared."""

    compared: tuple[str, ...]
    differences: tuple[str, ...]
    left_out: tuple[str, ...]


def verify(folder: Path) -> Verdict:
    """Compares files with the manifest, the golden batch with the model's answers, and the lock with this environment.

    Raises `CheckpointError` where files are damaged, and what loading raises where a component is absent or fails.
    """
    manifest = check_files(folder)
    model, recipe = restored(folder, manifest)
    lock = read_lock(folder, manifest)
    left_out = []
    try:
        splits = build_data(recipe).open()
    except RunError as error:
        splits = None
        left_out.append(f"data: {error}")
    now = lock_of(recipe, splits)
    if splits is None:
        lock.pop("data", None)
    differences = golden_difference(model, read_golden(folder, manifest, model)) + lock_difference(lock, now)
    compared = [f"{len(manifest.files) + 1} files", f"{len(now['components'])} components", "golden batch"]
    return Verdict((*compared, *(["data"] if splits is not None else [])), tuple(differences), tuple(left_out))
