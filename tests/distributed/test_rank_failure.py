"""One rank fails: all ranks end at once, with the message and the exit code of that first error."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.checkpoint.run_dir import find_latest_valid, list_checkpoints, read_latest
from tests.helpers.multi_rank_runner import MultiRankRunner
from tests.helpers.ni_runner import RunResult

# Which components the error names: if a helper of the file fails, each component in the file may have called it.
FAULTY_HEAD = r"head `faulty_head` of faulty\.py \(\S+\)"
FAULTY_DATA = r"data `faulty_data` of faulty\.py \(\S+\)"
FAULTY_DATA_OR_HEAD = r"data `faulty_data` or head `faulty_head` of faulty\.py \(\S+\)"
HINT = "fix the file; NI_DEBUG=1 shows the traceback"
# The place, how often it is passed before the failure, the last step that is saved, the named components, and the stage.
FAULT_PLACES = [
    ("data", 6, 5, FAULTY_DATA_OR_HEAD, 0),
    ("forward", 6, 6, FAULTY_HEAD, 3),
    ("backward", 6, 6, FAULTY_DATA_OR_HEAD, 2),
    # The sixth evaluation is of the golden batch for a checkpoint, the seventh of the test split.
    ("evaluation", 6, 5, FAULTY_HEAD, 1),
    ("evaluation", 7, 6, FAULTY_HEAD, 3),
]


@pytest.fixture(scope="module")
def multi_rank_runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MultiRankRunner]:
    """Starts runs with several ranks in a folder of its own."""
    runner = MultiRankRunner(tmp_path_factory.mktemp("runs"))
    yield runner
    runner.close()


def run_with_fault(runner: MultiRankRunner, run: Path, fault: str, *more: str) -> RunResult:
    """Runs until a fault ends all ranks; returns the result.

    Args:
        runner: Starts the run.
        run: The run folder.
        fault: The value of FAULTY: rank, place, number of the failing pass, and kind of failure.
        more: More arguments.
    """
    overrides = ["--plugin", "faulty.py", "model.head.use=faulty_head", "data.use=faulty_data", *more]
    start = time.monotonic()
    result = runner(*runner.command(run, 50), *overrides, environment={"FAULTY": fault})
    assert time.monotonic() - start < 20
    assert "Traceback" not in result.err
    assert "lost contact" not in result.err
    return result


def resume_hint(run: Path, step: int) -> str:
    """Asserts that the newest checkpoint is intact and of this step; returns the hint how to resume from it."""
    checkpoint, manifest, faults = find_latest_valid(run)
    assert manifest.step == step
    assert faults == []
    assert read_latest(run) == checkpoint
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"latest", *(path.name for path in list_checkpoints(run))}, "staging folders are left"
    return f"{run.name}/checkpoints/{checkpoint.name}; fix this and continue with ni train --resume {run.name}"


def rank_prefix(rank: int) -> str:
    """Returns how the error of a rank starts on stderr."""
    return f"error: process {rank}: " if rank else "error: "


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("place", "times", "saved_step", "component", "stage"), FAULT_PLACES, ids=[f"{p[0]}-{p[1]}" for p in FAULT_PLACES]
)
def test_component_fails_on_one_rank(
    multi_rank_runner: MultiRankRunner,
    rank: int,
    place: str,
    times: int,
    saved_step: int,
    component: str,
    stage: int,
) -> None:
    run = multi_rank_runner.folder / f"{place}-{times}-{rank}"
    result = run_with_fault(multi_rank_runner, run, f"{rank},{place},{times + 1},raise", f"engine.stage={stage}")
    message = rf"step \d: {component} failed in at \(faulty\.py, line \d+\): ValueError: a fault in {place}"
    hint = re.escape(f"\n  help: {HINT}; the last checkpoint is {resume_hint(run, saved_step)}")
    assert re.search(f"^{rank_prefix(rank)}{message}{hint}$", result.err, re.M)
    assert result.status == 4


@pytest.mark.parametrize("rank", [0, 1])
def test_component_calls_sys_exit(multi_rank_runner: MultiRankRunner, rank: int) -> None:
    """`sys.exit` in a component is reported as any other error of it."""
    run = multi_rank_runner.folder / f"exit-{rank}"
    result = run_with_fault(multi_rank_runner, run, f"{rank},forward,7,exit", "engine.stage=1")
    message = rf"step 7: {FAULTY_HEAD} failed in at \(faulty\.py, line \d+\): SystemExit: has had enough"
    hint = re.escape(f"\n  help: {HINT}; the last checkpoint is {resume_hint(run, 6)}")
    assert re.search(f"^{rank_prefix(rank)}{message}{hint}$", result.err, re.M)
    assert result.status == 4


@pytest.mark.parametrize("how", ["raise", "exit"])
@pytest.mark.parametrize("rank", [0, 1])
def test_data_fails_to_open_on_one_rank(multi_rank_runner: MultiRankRunner, rank: int, how: str) -> None:
    run = multi_rank_runner.folder / f"open-{how}-{rank}"
    result = run_with_fault(multi_rank_runner, run, f"{rank},open,1,{how}")
    error = {"raise": "ValueError: a fault in open", "exit": "SystemExit: has had enough"}[how]
    message = rf"{FAULTY_DATA} failed in at \(faulty\.py, line \d+\): {error}\n  help: {re.escape(HINT)}"
    assert re.fullmatch(f"{rank_prefix(rank)}{message}\n", result.err)
    assert result.status == 4
    assert list_checkpoints(run) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_disk_of_one_rank_is_full(multi_rank_runner: MultiRankRunner, rank: int) -> None:
    run = multi_rank_runner.folder / f"full-{rank}"
    result = run_with_fault(multi_rank_runner, run, f"{rank},forward,4,full", "engine.stage=2")
    remote = "process 1: No space left on device; check the path, its permissions and the space left"
    message = remote if rank else "No space left on device"
    assert f"\nerror: step 4: {message}; the last checkpoint is {resume_hint(run, 3)}\n" in result.err
    assert result.status == 1


def test_listener_fails(multi_rank_runner: MultiRankRunner) -> None:
    """Listeners run on rank 0 only."""
    run = multi_rank_runner.folder / "listener"
    result = run_with_fault(multi_rank_runner, run, "0,listener,4,raise")
    assert "ValueError: a fault in listener" in result.err
    assert f"; the last checkpoint is {resume_hint(run, 2)}\n" in result.err
    assert result.status == 4
