"""A run folder: its checkpoints, which of them is the newest, how many are kept, and whose it is."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from filelock import FileLock, Timeout

from ni_framework.checkpoint.manifest import MANIFEST, Manifest, check_files, step_of
from ni_framework.errors import CheckpointError, RunError, UsageError
from ni_framework.utils.atomic_files import hidden, open_plain, remove_folder, replace_file, sweep

CHECKPOINTS, POINTER, METRICS, LOCKED = "checkpoints", "latest", "metrics.jsonl", ".lock"
_LONGEST = 64  # bytes of a pointer


def new_run(name: str) -> Path:
    """A run folder that does not exist yet: `runs/<recipe>/<time>`, with a number if the second is taken."""
    place = Path("runs") / name / f"{datetime.now():%Y%m%d-%H%M%S}"
    others = (place.with_name(f"{place.name}-{number}") for number in count(2))
    return next(run for run in chain([place], others) if not run.exists())


def check_new(run: Path) -> None:
    """Raises `UsageError` for a folder that holds a run already."""
    if checkpoints_of(run):
        raise UsageError(
            f"{run}: holds a run already; go on with it (ni train --resume {run}) or name another --output"
        )


def check_visible(run: Path) -> None:
    """Raises `RunError` where another process has made a run folder and this one does not see it."""
    if not (run / LOCKED).exists():
        raise RunError(
            f"{run}: is not to be seen from {platform.node()}; put the run folder on a disk that all machines share, by --output"
        )


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Holds a run folder against any other process, and clears what a stopped one has left in it.

    The lock belongs to the process, so that nothing remains of it, however the process ends. Raises `RunError` at once if
    another one holds it, and `UsageError` for what is no folder.
    """
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run}: is no folder; name another with --output")
    fresh = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / LOCKED, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{run}: another process is at work in this run folder; wait for it, or name another --output"
        ) from None
    try:
        sweep(run)
        sweep(run / CHECKPOINTS)
        yield
    finally:
        lock.release()
        if fresh and [entry.name for entry in run.iterdir()] == [LOCKED]:  # nothing came of it
            (run / LOCKED).unlink()
            run.rmdir()


def link_latest(run: Path) -> None:
    """Makes `latest` in a folder `runs/` lead to this run, if it lies in one and links are to be had."""
    run = run.resolve()
    top = next((folder for folder in run.parents if folder.name == "runs"), None)
    if top is None or ((top / "latest").exists() and not (top / "latest").is_symlink()):
        return
    beside = hidden(top / "latest", "new")
    with suppress(OSError):
        os.symlink(run.relative_to(top), beside)
        os.replace(beside, top / "latest")


def place_of(run: Path, step: int, steps: int) -> Path:
    """Where the checkpoint of a step belongs; names sort as the steps do."""
    return run / CHECKPOINTS / f"step-{step:0{len(str(steps))}}"


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first, whole or not."""
    found = [entry.parent for entry in run.glob(f"{CHECKPOINTS}/step-*/{MANIFEST}")]
    return sorted((folder for folder in found if step_of(folder) is not None), key=lambda folder: step_of(folder) or 0)


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that a path means: the folder itself, or the newest in a run folder.

    Raises `CheckpointError` if there is none.
    """
    folder = Path(path)
    if not folder.exists():
        raise CheckpointError(f"{folder}: there is no such checkpoint; name a checkpoint folder or a run folder")
    if (folder / MANIFEST).is_file():
        return folder
    found = checkpoints_of(folder)
    if not found:
        raise CheckpointError(
            f"{folder}: holds no checkpoint; name a folder with a {MANIFEST}, or a run that has saved one"
        )
    return found[-1]


def point_to(checkpoint: Path) -> None:
    """Writes down which checkpoint is the newest, once it is there to stay; if it is ever lost, that is noticed."""
    replace_file(checkpoint.parent / POINTER, f"{checkpoint.name}\n".encode())


def pointed_to(run: Path) -> Path | None:
    """The checkpoint that should be the newest; None if nothing sensible is written down."""
    path = run / CHECKPOINTS / POINTER
    try:
        with open_plain(path, _LONGEST) as file:
            name = file.read().decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return path.with_name(name) if name == Path(name).name and step_of(Path(name)) is not None else None


def newest_good(
    run: Path,
    check: Callable[[Path], Manifest] = check_files,
    seen: tuple[list[Path], Path | None] | None = None,
) -> tuple[Path, Manifest, list[str]]:
    """The newest checkpoint of a run whose files agree with its manifest, and what is wrong with those after it.

    `seen` are the checkpoints to choose from and the one that should be the newest, where another has looked. Raises
    `CheckpointError` if none is whole.
    """
    faults: list[str] = []
    found, expected = seen or (checkpoints_of(run), pointed_to(run))
    if expected is not None and expected not in found:
        faults.append(f"{expected}: is missing, and was saved last; use another checkpoint")
    for folder in reversed(found):
        try:
            return folder, check(folder), faults
        except CheckpointError as error:
            faults.append(str(error))
    raise CheckpointError("\n".join([f"{run}: none of its checkpoints is whole", *faults]))


def retain(run: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints, and none unless one of these is whole."""
    found = checkpoints_of(run)
    kept, others = found[-keep:], found[:-keep]
    if others and any(_is_whole(folder) for folder in reversed(kept)):
        for folder in others:
            remove_folder(folder)


def _is_whole(folder: Path) -> bool:
    try:
        check_files(folder)
    except CheckpointError:
        return False
    return True
