"""Runs in which one rank is killed, interrupted or suspended: all ranks end, and no more than a step is lost."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.checkpoint.run_dir import find_latest_valid, list_checkpoints, read_latest
from tests.checkpoint.test_resume import read_final_state
from tests.helpers.multi_rank_runner import MultiRankRunner, TimedAction
from tests.helpers.ni_runner import repeat


@pytest.fixture(scope="module")
def multi_rank_runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MultiRankRunner]:
    """Starts runs with several ranks in a folder of its own."""
    runner = MultiRankRunner(tmp_path_factory.mktemp("runs"))
    yield runner
    runner.close()


def steps_after_newest(run: Path, steps: int) -> int:
    """Returns the step that is `steps` after the newest checkpoint: steps are a measure of time on a machine of any speed."""
    return steps + (find_latest_valid(run)[1].step if list_checkpoints(run) else 0)


def resumes_like_uninterrupted_ranks(runner: MultiRankRunner, run: Path, steps: int) -> bool:
    """Resumes a run to its end; returns whether it is bit-identical to an uninterrupted run.

    Args:
        runner: Starts the runs.
        run: The run folder.
        steps: The number of steps of the run.
    """
    result = runner(*runner.command(run, steps))
    assert result.status == 0 or "has done all of its" in result.err, result.err
    uninterrupted = runner.folder / f"uninterrupted-{steps}"
    if not list_checkpoints(uninterrupted):
        assert runner(*runner.command(uninterrupted, steps)).status == 0
    return read_final_state(run) == read_final_state(uninterrupted)


@repeat(50)
def test_killed_rank_loses_at_most_one_step(multi_rank_runner: MultiRankRunner, times: int) -> None:
    """At random instants of start-up, steps and saving, the newest checkpoint is intact."""
    steps, generator = 20 * times, random.Random(times)
    run = multi_rank_runner.folder / "killed"
    shutil.rmtree(run, ignore_errors=True)
    kills, slowest = 0, 0.0
    while kills < times:
        rank = generator.randrange(2)
        step = steps_after_newest(run, generator.randrange(1, 9))
        after = generator.choice([None, *[rf"step {step}/\d+  saved"] * 3])
        # One in four kills is during start-up.
        pause = generator.uniform(0, 1.5 if after is None else 0.05)
        kill = TimedAction(
            multi_rank_runner,
            lambda _, rank=rank: os.kill(multi_rank_runner.wait_for_rank(rank), signal.SIGKILL),
            pause,
            after,
        )
        result = multi_rank_runner(*multi_rank_runner.command(run, steps), meanwhile=kill)
        if result.status == 0:
            break
        slowest = max(slowest, kill.seconds)
        kills += 1
        assert result.status == 1, result
        assert f"process {rank} was ended by SIGKILL (perhaps out of memory)" in result.err
        assert "Traceback" not in result.err
        if list_checkpoints(run):
            _, manifest, faults = find_latest_valid(run)
            assert faults == []
            assert manifest.step >= result.last_saved_step, "a saved checkpoint is lost"
            assert manifest.step >= result.last_done_step - 1, "more than one step is lost"
            assert len(list_checkpoints(run)) <= 4
    print(f"{kills} kills of {times}; all ranks had ended within {slowest:.1f} s")
    assert kills >= 0.8 * times
    # 5 s, and 3 more on a busy machine.
    assert slowest < 5 + 3
    assert resumes_like_uninterrupted_ranks(multi_rank_runner, run, steps)


EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGHUP: 75, signal.SIGINT: 130}


@repeat(50)
def test_stop_signal_to_one_rank_stops_all_ranks(multi_rank_runner: MultiRankRunner, times: int) -> None:
    """A signal to one rank or to the launcher stops all ranks after the same step, and nothing is lost."""
    steps, generator = 20 * times, random.Random(times)
    run = multi_rank_runner.folder / "stopped"
    shutil.rmtree(run, ignore_errors=True)
    signals, saved, slowest = 0, 0, 0.0
    while signals < times:
        # None is the launcher. A signal before the ranks are connected would stop one rank alone.
        number, rank = generator.choice(list(EXIT_CODES)), generator.choice([0, 1, None])
        step = steps_after_newest(run, generator.randrange(1, 9))
        after, pause = rf"step {step}/\d+  loss", generator.uniform(0, 0.05)

        def send_signal(child: int, number: signal.Signals = number, rank: int | None = rank) -> None:
            os.kill(child if rank is None else multi_rank_runner.wait_for_rank(rank), number)

        action = TimedAction(multi_rank_runner, send_signal, pause, after)
        result = multi_rank_runner(*multi_rank_runner.command(run, steps), meanwhile=action)
        if result.status == 0:
            break
        slowest = max(slowest, action.seconds)
        signals += 1
        assert result.status == EXIT_CODES[number], (number, rank, after, pause, result)
        assert "Traceback" not in result.err
        saved += "interrupted after step" in result.err
        if list_checkpoints(run):
            checkpoint, manifest, faults = find_latest_valid(run)
            assert faults == []
            assert read_latest(run) == checkpoint
            assert manifest.step >= result.last_done_step, "a step is lost"
    print(
        f"{signals} signals of {times}, {saved} of them with a checkpoint; all ranks had ended within {slowest:.1f} s"
    )
    assert signals >= 0.8 * times
    assert saved >= 0.3 * times
    assert resumes_like_uninterrupted_ranks(multi_rank_runner, run, steps)


@pytest.mark.parametrize("rank", [0, 1])
def test_frozen_rank_is_detected(multi_rank_runner: MultiRankRunner, rank: int) -> None:
    """A suspended rank is detected after the timeout, and named; the stacks of each rank are in its log."""
    run = multi_rank_runner.folder / f"frozen-{rank}"
    suspend = TimedAction(
        multi_rank_runner,
        lambda _: os.kill(multi_rank_runner.wait_for_rank(rank), signal.SIGSTOP),
        0.0,
        "step 3/1000  loss",
    )
    result = multi_rank_runner(*multi_rank_runner.command(run, 1000, "engine.timeout=6"), meanwhile=suspend)
    assert result.status == 1
    assert suspend.seconds < 6 + 2 + 5 + 1
    assert f"process {rank} did not exit by itself and was killed" in result.err
    assert (
        f"process {1 - rank} lost contact with the others: one of them has ended silently, or no longer answers"
        in result.err
    )
    assert "most recent call first" in (run / "logs" / f"rank-{rank}.log").read_text()
    assert "Traceback (most recent call last)" in (run / "logs" / f"rank-{1 - rank}.log").read_text()
    assert re.search(r"^Traceback", result.err, re.M) is None
