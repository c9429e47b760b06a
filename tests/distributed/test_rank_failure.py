"""Something fails in one process alone: all end at once, with the words and the exit code of that first error."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.checkpoint.run_dir import checkpoints_of, newest_good, pointed_to
from tests.helpers.multi_rank_runner import Several
from tests.helpers.ni_runner import Ended

# What is blamed, by the place: where a helper of the file fails, all that is in the file may have called it.
HEAD = r"head `faulty_head` of faulty\.py \(\S+\)"
DATA = r"data `faulty_data` of faulty\.py \(\S+\)"
EITHER = r"data `faulty_data` or head `faulty_head` of faulty\.py \(\S+\)"
HINT = "mend the file; NI_DEBUG=1 shows the traceback"
# The place, how often it is passed without a fault, the last step that is saved then, whose fault it is, and the stage.
PLACES = [
    ("data", 6, 5, EITHER, 0),
    ("forward", 6, 6, HEAD, 3),
    ("backward", 6, 6, EITHER, 2),
    ("evaluation", 6, 5, HEAD, 1),  # of the batch that goes into a checkpoint
    ("evaluation", 7, 6, HEAD, 3),  # of the held-out part
]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    """Starts runs of several processes in a folder of its own."""
    runner = Several(tmp_path_factory.mktemp("runs"))
    yield runner
    runner.close()


def failed(several: Several, run: Path, fault: str, *more: str) -> Ended:
    """How a run ends in which a fault happens (rank, place, how often that is passed, how)."""
    parts = ["--plugin", "faulty.py", "model.head.use=faulty_head", "data.use=faulty_data", *more]
    begun = time.monotonic()
    ended = several(*several.command(run, 50), *parts, environment={"FAULTY": fault})
    assert time.monotonic() - begun < 20
    assert "Traceback" not in ended.err
    assert "lost the others" not in ended.err
    return ended


def newest(run: Path, step: int) -> str:
    """The way on from the newest checkpoint, which is whole and of this step, and beside which nothing is left over."""
    found, manifest, faults = newest_good(run)
    assert (manifest.step, faults, pointed_to(run)) == (step, [], found)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"latest", *(p.name for p in checkpoints_of(run))}
    return f"{run.name}/checkpoints/{found.name}; mend that and go on with ni train --resume {run.name}"


def of(rank: int) -> str:
    """How what a process has to say begins on stderr."""
    return f"error: process {rank}: " if rank else "error: "


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("place", "times", "done", "whose", "stage"), PLACES, ids=[f"{p[0]}-{p[1]}" for p in PLACES])
def test_a_component_fails(
    several: Several, rank: int, place: str, times: int, done: int, whose: str, stage: int
) -> None:
    run = several.folder / f"{place}-{times}-{rank}"
    ended = failed(several, run, f"{rank},{place},{times + 1},raise", f"engine.stage={stage}")
    told = rf"step \d: {whose} failed in at \(faulty\.py, line \d+\): ValueError: a fault in {place}"
    way_on = re.escape(f"\n  help: {HINT}; the last checkpoint is {newest(run, done)}")
    assert re.search(f"^{of(rank)}{told}{way_on}$", ended.err, re.M)
    assert ended.status == 4


@pytest.mark.parametrize("rank", [0, 1])
def test_a_component_wants_to_exit(several: Several, rank: int) -> None:
    """`sys.exit` in a component ends the run as any other error of it."""
    run = several.folder / f"exit-{rank}"
    ended = failed(several, run, f"{rank},forward,7,exit", "engine.stage=1")
    told = rf"step 7: {HEAD} failed in at \(faulty\.py, line \d+\): SystemExit: has had enough"
    way_on = re.escape(f"\n  help: {HINT}; the last checkpoint is {newest(run, 6)}")
    assert re.search(f"^{of(rank)}{told}{way_on}$", ended.err, re.M)
    assert ended.status == 4


@pytest.mark.parametrize("how", ["raise", "exit"])
@pytest.mark.parametrize("rank", [0, 1])
def test_the_data_cannot_be_opened(several: Several, rank: int, how: str) -> None:
    run = several.folder / f"open-{how}-{rank}"
    ended = failed(several, run, f"{rank},open,1,{how}")
    words = {"raise": "ValueError: a fault in open", "exit": "SystemExit: has had enough"}[how]
    told = rf"{DATA} failed in at \(faulty\.py, line \d+\): {words}\n  help: {re.escape(HINT)}"
    assert re.fullmatch(f"{of(rank)}{told}\n", ended.err)
    assert ended.status == 4
    assert checkpoints_of(run) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_the_disk_of_one_is_full(several: Several, rank: int) -> None:
    run = several.folder / f"full-{rank}"
    ended = failed(several, run, f"{rank},forward,4,full", "engine.stage=2")
    check = "process 1: No space left on device; check the path, its permissions and the space left"
    told = check if rank else "No space left on device"
    assert f"\nerror: step 4: {told}; the last checkpoint is {newest(run, 3)}\n" in ended.err
    assert ended.status == 1


def test_a_listener_fails(several: Several) -> None:
    """There is one in the first process alone."""
    run = several.folder / "listener"
    ended = failed(several, run, "0,listener,4,raise")
    assert "ValueError: a fault in listener" in ended.err
    assert f"; the last checkpoint is {newest(run, 2)}\n" in ended.err
    assert ended.status == 4
