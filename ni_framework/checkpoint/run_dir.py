"""A run folder: its checkpoints, which of them is the newest, how many are kept, and which process uses it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from filelock import FileLock, Timeout

from ni_framework.checkpoint.manifest import MANIFEST_FILE, Manifest, check_files, step_from_name
from ni_framework.errors import CheckpointError, RunError, UsageError
from ni_framework.utils.atomic_files import atomic_write, open_regular_file, remove_folder, remove_stale, staging_path

CHECKPOINTS_DIR, LATEST_FILE, METRICS_FILE, RUN_LOCK_FILE = "checkpoints", "latest", "metrics.jsonl", ".lock"
# The largest size of the file `latest`.
_MAX_POINTER_BYTES = 64


def new_run_dir(name: str) -> Path:
    """Returns a run folder that does not exist yet: `runs/<recipe>/<time>`, with a number if that is taken."""
    first = Path("runs") / name / f"{datetime.now():%Y%m%d-%H%M%S}"
    others = (first.with_name(f"{first.name}-{number}") for number in count(2))
    return next(run for run in chain([first], others) if not run.exists())


def check_new(run: Path) -> None:
    """Raises `UsageError` for a folder that contains a run already."""
    if list_checkpoints(run):
        raise UsageError(f"{run}: contains a run already; resume it (ni train --resume {run}) or name another --output")


def require_shared_filesystem(run: Path) -> None:
    """Raises `RunError` if this process does not see the run folder that rank 0 has made."""
    if not (run / RUN_LOCK_FILE).exists():
        raise RunError(
            f"{run}: is not visible on {platform.node()}; put the run folder on a disk that all machines share, with --output"
        )


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Locks a run folder against other processes, and removes what an interrupted one has left in it.

    The operating system releases the lock however the process ends. Raises `RunError` at once if another process has the
    lock, and `UsageError` if the path is not a folder.
    """
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run}: is not a folder; name another with --output")
    fresh = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / RUN_LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{run}: another process is using this run folder; wait for it to end, or name another --output"
        ) from None
    try:
        remove_stale(run)
        remove_stale(run / CHECKPOINTS_DIR)
        yield
    finally:
        lock.release()
        # If nothing was written, the folder is removed again.
        if fresh and [entry.name for entry in run.iterdir()] == [RUN_LOCK_FILE]:
            (run / RUN_LOCK_FILE).unlink()
            run.rmdir()


def link_latest(run: Path) -> None:
    """Points the link `latest` in a folder `runs/` to this run, if the run is in one and links are supported."""
    run = run.resolve()
    top = next((folder for folder in run.parents if folder.name == "runs"), None)
    if top is None or ((top / "latest").exists() and not (top / "latest").is_symlink()):
        return
    staging = staging_path(top / "latest", "new")
    with suppress(OSError):
        os.symlink(run.relative_to(top), staging)
        os.replace(staging, top / "latest")


def checkpoint_dir(run: Path, step: int, steps: int) -> Path:
    """Returns the folder for the checkpoint of a step; names sort in the order of steps.

    Args:
        run: The run folder.
        step: The step.
        steps: The last step of the run, which determines the number of digits.
    """
    return run / CHECKPOINTS_DIR / f"step-{step:0{len(str(steps))}}"


def list_checkpoints(run: Path) -> list[Path]:
    """Returns the checkpoints of a run folder, oldest first, intact or not."""
    folders = [entry.parent for entry in run.glob(f"{CHECKPOINTS_DIR}/step-*/{MANIFEST_FILE}")]
    return sorted(
        (folder for folder in folders if step_from_name(folder) is not None),
        key=lambda folder: step_from_name(folder) or 0,
    )


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Returns the checkpoint of a path: the path itself, or the newest checkpoint in a run folder.

    Raises `CheckpointError` if there is no checkpoint.
    """
    folder = Path(path)
    if not folder.exists():
        raise CheckpointError(f"{folder}: there is no such checkpoint; name a checkpoint folder or a run folder")
    if (folder / MANIFEST_FILE).is_file():
        return folder
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        raise CheckpointError(
            f"{folder}: contains no checkpoint; name a folder with a {MANIFEST_FILE}, or a run that has saved one"
        )
    return checkpoints[-1]


def write_latest(checkpoint: Path) -> None:
    """Records the newest checkpoint once it is durable, so that a later loss of it is noticed."""
    atomic_write(checkpoint.parent / LATEST_FILE, f"{checkpoint.name}\n".encode())


def read_latest(run: Path) -> Path | None:
    """Returns the checkpoint that is recorded as the newest; None if there is no valid record."""
    path = run / CHECKPOINTS_DIR / LATEST_FILE
    try:
        with open_regular_file(path, _MAX_POINTER_BYTES) as file:
            name = file.read().decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return path.with_name(name) if name == Path(name).name and step_from_name(Path(name)) is not None else None


def find_latest_valid(
    run: Path,
    check: Callable[[Path], Manifest] = check_files,
    known_checkpoints: tuple[list[Path], Path | None] | None = None,
) -> tuple[Path, Manifest, list[str]]:
    """Finds the newest checkpoint of a run whose files agree with its manifest.

    Args:
        run: The run folder.
        check: Returns the manifest of a checkpoint after checking its files.
        known_checkpoints: The checkpoints to choose from, and the one recorded as the newest, if rank 0 has listed them.

    Returns:
        The checkpoint, its manifest, and what is wrong with each later checkpoint.

    Raises:
        CheckpointError: None is intact.
    """
    faults: list[str] = []
    candidates, recorded = known_checkpoints or (list_checkpoints(run), read_latest(run))
    if recorded is not None and recorded not in candidates:
        faults.append(f"{recorded}: is missing, although it was saved last; use another checkpoint")
    for folder in reversed(candidates):
        try:
            return folder, check(folder), faults
        except CheckpointError as error:
            faults.append(str(error))
    raise CheckpointError("\n".join([f"{run}: none of its checkpoints is intact", *faults]))


def prune_checkpoints(run: Path, keep_last: int) -> None:
    """Removes all but the newest `keep_last` checkpoints, but removes nothing unless one of these is intact."""
    checkpoints = list_checkpoints(run)
    retained, outdated = checkpoints[-keep_last:], checkpoints[:-keep_last]
    if outdated and any(_is_intact(folder) for folder in reversed(retained)):
        for folder in outdated:
            remove_folder(folder)


def _is_intact(folder: Path) -> bool:
    try:
        check_files(folder)
    except CheckpointError:
        return False
    return True
