"""A disk that fails, and a process that dies, at every single file operation of saving."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest

from ni_framework.checkpoint.run_dir import checkpoints_of, newest_good
from tests.checkpoint.test_resume import left_behind
from tests.fault_injection.test_kills import OVERRIDES
from tests.helpers.ni_runner import Runner

RESUME = ("train", "--resume", "run", "train.steps=6")  # from step 4, where each step is saved and two are kept


@pytest.fixture(scope="module")
def begun(runner: Runner) -> Path:
    """A run that has got to step 4, and beside it one that has got to step 6."""
    arguments = ("train", "small.yaml", "train.schedule=constant", *OVERRIDES, "--every", 1, "--keep", 2)
    assert runner(*arguments, "train.steps=4", "--output", "begun").status == 0
    assert runner(*arguments, "train.steps=4", "--output", "whole").status == 0
    assert runner("train", "--resume", "whole", "train.steps=6").status == 0
    return runner.folder / "begun"


def operations(runner: Runner, begun: Path) -> int:
    """How many file operations going on from step 4 to step 6 takes."""
    fresh(runner, begun)
    count = runner.folder / "count"
    assert runner(*RESUME, how="count", count_to=str(count)).status == 0
    return int(count.read_text())


def fresh(runner: Runner, begun: Path) -> Path:
    """The run as it was after step 4."""
    run = runner.folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(begun, run)
    return run


def litter(run: Path) -> list[str]:
    """What nobody will ever read."""
    return [path.name for path in run.rglob(".*") if path.name != ".lock"]


def chosen(number: int, part: int, seed: int) -> list[int]:
    """One operation in `part`, the first and the last among them, counted from 1."""
    places = range(1, number + 1)
    if part == 1:
        return list(places)
    return sorted({1, number, *random.Random(seed).sample(places, number // part)})


@pytest.mark.parametrize("part", [10, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("how", ["kill", "half"])
def test_killed_at_each_operation(runner: Runner, begun: Path, how: str, part: int) -> None:
    """Before it, and in the middle of each write: a good checkpoint is left, and going on leads to the same bits."""
    number = operations(runner, begun)
    assert number > 60
    for at in chosen(number, part, seed=1):
        run = fresh(runner, begun)
        assert runner(*RESUME, how=how, at=at).status == -signal.SIGKILL
        checkpoint, manifest, faults = newest_good(run)
        assert (manifest.step >= 4, faults) == (True, []), (at, checkpoint)
        ended = runner(*RESUME)
        complete = "has done all of its 6 steps" in ended.err
        assert complete or ended.status == 0, (at, ended.err)
        assert left_behind(run) == left_behind(begun.with_name("whole")), at
        assert litter(run) == [], at
        assert len(checkpoints_of(run)) <= 2 + complete, at  # it may have ended before an old one was removed
    print(f"{how}: {len(chosen(number, part, seed=1))} of {number} operations")


ERRORS = {
    "ENOSPC": "No space left on device",
    "EIO": "Input/output error",
    "EROFS": "Read-only file system",
    "EACCES": "Permission denied",
    "EDQUOT": "Disk quota exceeded",
}


@pytest.mark.parametrize("part", [15, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("error", ERRORS)
def test_error_at_each_operation(runner: Runner, begun: Path, error: str, part: int) -> None:
    """The old checkpoint is intact, one line says what is wrong and how to go on, nothing is left over."""
    number, told = operations(runner, begun), 0
    for at in chosen(number, part, seed=len(error)):
        run = fresh(runner, begun)
        ended = runner(*RESUME, how=error, at=at)
        assert ended.status in (0, 1), (at, ended)  # 0: what could not be cleared away is cleared another time
        assert "Traceback" not in ended.err
        if ended.status:
            told += 1
            (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
            assert ERRORS[error] in line, (at, line)
            assert litter(run) == [], at
        _, manifest, faults = newest_good(run)
        assert (manifest.step >= 4, faults) == (True, [])
        if manifest.step < 6 or not manifest.evaluated:
            assert runner(*RESUME).status == 0
        assert left_behind(run) == left_behind(begun.with_name("whole")), at
    print(f"{error}: {told} of {len(chosen(number, part, seed=len(error)))} told, the others cost nothing")
    assert told >= 2


def test_a_file_that_the_system_refuses(runner: Runner, begun: Path) -> None:
    """A real limit, set by the kernel, on how long a file may become: no failure of our own making."""
    run = fresh(runner, begun)
    ended = runner(*RESUME, file_size=20_000)
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == (
        "error: step 5: File too large; the last checkpoint is run/checkpoints/step-4; mend that and go on with "
        "ni train --resume run"
    )
    assert litter(run) == []
    assert runner(*RESUME).status == 0
    assert left_behind(run) == left_behind(begun.with_name("whole"))


def test_the_harness_can_fail(runner: Runner, begun: Path) -> None:
    """A checkpoint written in place, file by file, would be found out by the same loop."""
    run = fresh(runner, begun)
    weights = run / "checkpoints" / "step-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    _, manifest, faults = newest_good(run)
    assert manifest.step == 3
    assert len(faults) == 1
