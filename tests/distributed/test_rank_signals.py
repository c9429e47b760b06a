"""A run of several processes of which one is killed, interrupted or frozen: all end, and no more than a step is lost."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.checkpoint.run_dir import checkpoints_of, newest_good, pointed_to
from tests.checkpoint.test_resume import left_behind
from tests.helpers.multi_rank_runner import Several, Timed
from tests.helpers.ni_runner import repeated


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    """Starts runs of several processes in a folder of its own."""
    runner = Several(tmp_path_factory.mktemp("runs"))
    yield runner
    runner.close()


def further(run: Path, steps: int) -> int:
    """The step that is so many after the newest checkpoint's: said steps come in time on a machine of any speed."""
    return steps + (newest_good(run)[1].step if checkpoints_of(run) else 0)


def equals_whole(several: Several, run: Path, steps: int) -> bool:
    """Whether a run, gone on with to its end, is to the last bit the one to which nothing happened."""
    ended = several(*several.command(run, steps))
    assert ended.status == 0 or "has done all of its" in ended.err, ended.err
    whole = several.folder / f"whole-{steps}"
    if not checkpoints_of(whole):
        assert several(*several.command(whole, steps)).status == 0
    return left_behind(run) == left_behind(whole)


@repeated(50)
def test_a_process_is_killed(several: Several, times: int) -> None:
    """At random instants of start-up, steps and saving: the newest checkpoint is whole and at most one step behind."""
    steps, generator = 20 * times, random.Random(times)
    run = several.folder / "killed"
    shutil.rmtree(run, ignore_errors=True)
    kills, slowest = 0, 0.0
    while kills < times:
        rank = generator.randrange(2)
        step = further(run, generator.randrange(1, 9))
        after = generator.choice([None, *[rf"step {step}/\d+  saved"] * 3])  # one in four while it starts
        pause = generator.uniform(0, 1.5 if after is None else 0.05)
        kill = Timed(several, lambda _, rank=rank: os.kill(several.rank(rank), signal.SIGKILL), pause, after)
        ended = several(*several.command(run, steps), meanwhile=kill)
        if ended.status == 0:
            break
        slowest = max(slowest, kill.seconds)
        kills += 1
        assert ended.status == 1, ended
        assert f"process {rank} was ended by SIGKILL (out of memory, perhaps)" in ended.err
        assert "Traceback" not in ended.err
        if checkpoints_of(run):
            _, manifest, faults = newest_good(run)
            assert (faults, manifest.step >= ended.saved, manifest.step >= ended.done - 1) == ([], True, True)
            assert len(checkpoints_of(run)) <= 4
    print(f"{kills} kills of {times}; all had ended {slowest:.1f} s later at the latest")
    assert kills >= 0.8 * times
    assert slowest < 5 + 3  # of a busy machine
    assert equals_whole(several, run, steps)


CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGHUP: 75, signal.SIGINT: 130}


@repeated(50)
def test_one_is_asked_to_stop(several: Several, times: int) -> None:
    """A signal to one process, or to the one that started them: all stop after the same step, and nothing is lost."""
    steps, generator = 20 * times, random.Random(times)
    run = several.folder / "asked"
    shutil.rmtree(run, ignore_errors=True)
    signals, saved, slowest = 0, 0, 0.0
    while signals < times:
        number, whom = generator.choice(list(CODES)), generator.choice([0, 1, None])
        step = further(run, generator.randrange(1, 9))  # before they train together, one alone stops alone
        after, pause = rf"step {step}/\d+  loss", generator.uniform(0, 0.05)

        def ask(child: int, number: signal.Signals = number, whom: int | None = whom) -> None:
            os.kill(child if whom is None else several.rank(whom), number)

        asking = Timed(several, ask, pause, after)
        ended = several(*several.command(run, steps), meanwhile=asking)
        if ended.status == 0:
            break
        slowest = max(slowest, asking.seconds)
        signals += 1
        assert ended.status == CODES[number], (number, whom, after, pause, ended)
        assert "Traceback" not in ended.err
        saved += "interrupted after step" in ended.err
        if checkpoints_of(run):
            checkpoint, manifest, faults = newest_good(run)
            assert (faults, pointed_to(run)) == ([], checkpoint)
            assert manifest.step >= ended.done
    print(
        f"{signals} signals of {times}, {saved} answered with a checkpoint; all had ended after {slowest:.1f} s at most"
    )
    assert signals >= 0.8 * times
    assert saved >= 0.3 * times
    assert equals_whole(several, run, steps)


@pytest.mark.parametrize("rank", [0, 1])
def test_frozen(several: Several, rank: int) -> None:
    """One that is halted is noticed when time is up, and named; what each of them was at stands in its log."""
    run = several.folder / f"frozen-{rank}"
    halted = Timed(several, lambda _: os.kill(several.rank(rank), signal.SIGSTOP), 0.0, "step 3/1000  loss")
    ended = several(*several.command(run, 1000, "engine.timeout=6"), meanwhile=halted)
    assert ended.status == 1
    assert halted.seconds < 6 + 2 + 5 + 1
    assert f"process {rank} did not end by itself and was killed" in ended.err
    assert f"process {1 - rank} lost the others: one of them has ended without a word, or answers no more" in ended.err
    assert "most recent call first" in (run / "logs" / f"rank-{rank}.log").read_text()
    assert "Traceback (most recent call last)" in (run / "logs" / f"rank-{1 - rank}.log").read_text()
    assert re.search(r"^Traceback", ended.err, re.M) is None
