"""Checks that a checkpoint is intact, and that its model behaves here as it did where it was saved."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from ni_framework.checkpoint.golden import compare_golden
from ni_framework.checkpoint.load import load_unchecked, read_golden, read_lockfile
from ni_framework.checkpoint.lockfile import build_lockfile, compare_lockfiles
from ni_framework.checkpoint.manifest import check_files
from ni_framework.errors import RunError
from ni_framework.model.compose import build_data


@frozen
class VerifyResult:
    """What was compared, the differences, and what could not be compared."""

    compared: tuple[str, ...]
    differences: tuple[str, ...]
    not_compared: tuple[str, ...]


def verify(folder: Path) -> VerifyResult:
    """Compares the files with the manifest, the golden batch with the model's outputs, and the lockfile with this environment.

    Raises `CheckpointError` if files are damaged, and what loading raises if a component is missing or fails.
    """
    manifest = check_files(folder)
    model, recipe = load_unchecked(folder, manifest)
    lockfile = read_lockfile(folder, manifest)
    not_compared = []
    try:
        splits = build_data(recipe).open()
    except RunError as error:
        splits = None
        not_compared.append(f"data: {error}")
    now = build_lockfile(recipe, splits)
    if splits is None:
        lockfile.pop("data", None)
    differences = compare_golden(model, read_golden(folder, manifest, model)) + compare_lockfiles(lockfile, now)
    compared = [f"{len(manifest.files) + 1} files", f"{len(now['components'])} components", "golden batch"]
    return VerifyResult((*compared, *(["data"] if splits is not None else [])), tuple(differences), tuple(not_compared))
