"""A disk that fails, or a process that is killed, at every file operation of saving."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest

from ni_framework.checkpoint.run_dir import find_latest_valid, list_checkpoints
from tests.checkpoint.test_resume import read_final_state
from tests.fault_injection.test_kills import KILL_OVERRIDES
from tests.helpers.ni_runner import NiRunner

# Resumes from step 4; each step is saved, and two checkpoints are kept.
RESUME_COMMAND = ("train", "--resume", "run", "train.steps=6")


@pytest.fixture(scope="module")
def interrupted_run(runner: NiRunner) -> Path:
    """A run that was stopped after step 4; next to it is `uninterrupted`, which has reached step 6."""
    arguments = ("train", "small.yaml", "train.schedule=constant", *KILL_OVERRIDES, "--every", 1, "--keep-last", 2)
    assert runner(*arguments, "train.steps=4", "--output", "interrupted").status == 0
    assert runner(*arguments, "train.steps=4", "--output", "uninterrupted").status == 0
    assert runner("train", "--resume", "uninterrupted", "train.steps=6").status == 0
    return runner.folder / "interrupted"


def count_operations(runner: NiRunner, interrupted: Path) -> int:
    """Returns the number of file operations from step 4 to step 6."""
    restore_run(runner, interrupted)
    count = runner.folder / "count"
    assert runner(*RESUME_COMMAND, how="count", count_to=str(count)).status == 0
    return int(count.read_text())


def restore_run(runner: NiRunner, interrupted: Path) -> Path:
    """Returns a copy of the run as it was after step 4."""
    run = runner.folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(interrupted, run)
    return run


def stale_files(run: Path) -> list[str]:
    """Returns the hidden files of a run, without its lock; an interrupted process may have left them."""
    return [path.name for path in run.rglob(".*") if path.name != ".lock"]


def choose_operations(number: int, every: int, seed: int) -> list[int]:
    """Draws one of every `every` operations, and the first and the last one, counted from 1.

    Args:
        number: The number of operations.
        every: 1 chooses all operations.
        seed: The seed of the choice.
    """
    operations = range(1, number + 1)
    if every == 1:
        return list(operations)
    return sorted({1, number, *random.Random(seed).sample(operations, number // every)})


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("how", ["kill", "half"])
def test_killed_at_each_operation(runner: NiRunner, interrupted_run: Path, how: str, every: int) -> None:
    """Before it, or in the middle of a write: an intact checkpoint is left, and resuming gives the same bits."""
    number = count_operations(runner, interrupted_run)
    assert number > 60
    for at in choose_operations(number, every, seed=1):
        run = restore_run(runner, interrupted_run)
        assert runner(*RESUME_COMMAND, how=how, at=at).status == -signal.SIGKILL
        checkpoint, manifest, faults = find_latest_valid(run)
        assert manifest.step >= 4, (at, checkpoint)
        assert faults == [], (at, checkpoint)
        result = runner(*RESUME_COMMAND)
        complete = "has done all of its 6 steps" in result.err
        assert complete or result.status == 0, (at, result.err)
        assert read_final_state(run) == read_final_state(interrupted_run.with_name("uninterrupted")), at
        assert stale_files(run) == [], at
        # If the run was complete, it may have been killed before an old checkpoint was removed.
        assert len(list_checkpoints(run)) <= 2 + complete, at
    print(f"{how}: {len(choose_operations(number, every, seed=1))} of {number} operations")


ERRORS = {
    "ENOSPC": "No space left on device",
    "EIO": "Input/output error",
    "EROFS": "Read-only file system",
    "EACCES": "Permission denied",
    "EDQUOT": "Disk quota exceeded",
}


@pytest.mark.parametrize("every", [15, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("error", ERRORS)
def test_error_at_each_operation(runner: NiRunner, interrupted_run: Path, error: str, every: int) -> None:
    """The old checkpoint is intact, one line reports the error and how to resume, and no staging file is left."""
    number, num_errors = count_operations(runner, interrupted_run), 0
    for at in choose_operations(number, every, seed=len(error)):
        run = restore_run(runner, interrupted_run)
        result = runner(*RESUME_COMMAND, how=error, at=at)
        # A failed removal of old files does not end the run; they are removed another time.
        assert result.status in (0, 1), (at, result)
        assert "Traceback" not in result.err
        if result.status:
            num_errors += 1
            (line,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
            assert ERRORS[error] in line, (at, line)
            assert stale_files(run) == [], at
        _, manifest, faults = find_latest_valid(run)
        assert manifest.step >= 4
        assert faults == []
        if manifest.step < 6 or not manifest.evaluated:
            assert runner(*RESUME_COMMAND).status == 0
        assert read_final_state(run) == read_final_state(interrupted_run.with_name("uninterrupted")), at
    print(f"{error}: {num_errors} of {len(choose_operations(number, every, seed=len(error)))} operations ended the run")
    assert num_errors >= 2


def test_kernel_limit_of_the_file_size(runner: NiRunner, interrupted_run: Path) -> None:
    """A real limit of the kernel, not an injected fault."""
    run = restore_run(runner, interrupted_run)
    result = runner(*RESUME_COMMAND, file_size=20_000)
    assert result.status == 1
    assert result.err.splitlines()[-1] == (
        "error: step 5: File too large; the last checkpoint is run/checkpoints/step-4; fix this and continue with "
        "ni train --resume run"
    )
    assert stale_files(run) == []
    assert runner(*RESUME_COMMAND).status == 0
    assert read_final_state(run) == read_final_state(interrupted_run.with_name("uninterrupted"))


def test_incomplete_checkpoint_is_detected(runner: NiRunner, interrupted_run: Path) -> None:
    """A control for the tests above: they would detect a checkpoint that is written in place, file by file."""
    run = restore_run(runner, interrupted_run)
    weights = run / "checkpoints" / "step-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    _, manifest, faults = find_latest_valid(run)
    assert manifest.step == 3
    assert len(faults) == 1
