"""A run that is killed or interrupted at any instant loses at most what it did since its last checkpoint."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

from ni_framework.checkpoint.run_dir import find_latest_valid, list_checkpoints, read_latest
from tests.checkpoint.test_resume import read_final_state
from tests.helpers.ni_runner import NiRunner, RandomSignal, RunResult, repeat

KILL_OVERRIDES = (
    "train.log_every=1",
    "train.evaluate_every=7",
    "train.ema_decay=0.9",
    "model.router=stochastic_kernel",
)


def run_or_resume_command(run: Path, steps: int, *more: object) -> list[object]:
    """Returns the arguments that start a run with a checkpoint at every step, or resume it if it has checkpoints.

    Args:
        run: The run folder.
        steps: The number of steps of a new run.
        more: More arguments.
    """
    if list_checkpoints(run):
        return ["train", "--resume", run.name, *more]
    return [
        "train",
        "small.yaml",
        f"train.steps={steps}",
        *KILL_OVERRIDES,
        "--every",
        1,
        "--keep-last",
        3,
        "--output",
        run.name,
        *more,
    ]


def resumes_like_uninterrupted(runner: NiRunner, run: Path, steps: int) -> bool:
    """Resumes a run to its end; returns whether it is bit-identical to an uninterrupted run.

    Args:
        runner: Starts the runs.
        run: The run folder.
        steps: The number of steps of the run.
    """
    result = runner(*run_or_resume_command(run, steps))
    assert result.status == 0 or "has done all of its" in result.err, result.err
    uninterrupted = runner.folder / "uninterrupted"
    shutil.rmtree(uninterrupted, ignore_errors=True)
    assert runner(*run_or_resume_command(uninterrupted, steps)).status == 0
    return read_final_state(run) == read_final_state(uninterrupted)


@repeat(50)
def test_killed_run_loses_at_most_one_step(runner: NiRunner, times: int) -> None:
    """While every step is saved, the newest checkpoint is always intact; in the end the run is bit-identical."""
    steps, generator = 25 * times, random.Random(times)
    run = runner.folder / "killed"
    shutil.rmtree(run, ignore_errors=True)
    kills = 0
    while kills < times:
        # One in four kills is during start-up.
        after = generator.choice([None, "saved", "saved", "saved"])
        result = runner(
            *run_or_resume_command(run, steps), meanwhile=RandomSignal(generator, signal.SIGKILL, 0.2, after)
        )
        if result.status == 0:
            break
        assert result.status == -signal.SIGKILL, result.err
        kills += 1
        if list_checkpoints(run):
            _, manifest, faults = find_latest_valid(run)
            assert faults == []
            assert manifest.step >= result.last_saved_step, "a saved checkpoint is lost"
            assert manifest.step >= result.last_done_step - 1, "more than one step is lost"
    print(f"{kills} kills of {times}, then step {find_latest_valid(run)[1].step} of {steps}")
    assert kills >= 0.8 * times
    assert resumes_like_uninterrupted(runner, run, steps)
    assert [entry.name for entry in (run / "checkpoints").iterdir() if entry.name.startswith(".")] == []
    assert len(list_checkpoints(run)) == 3


@repeat(50)
def test_interrupted_run_loses_nothing(runner: NiRunner, times: int) -> None:
    """At any instant: the exit code is that of the signal, the checkpoint is intact, and in the end the run is bit-identical."""
    steps, generator = 25 * times, random.Random(times)
    run = runner.folder / "interrupted"
    shutil.rmtree(run, ignore_errors=True)
    codes = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
    signals, saved = 0, 0
    while signals < times:
        number = generator.choice(list(codes))
        start = time.monotonic()
        # One in four signals is during start-up.
        after = generator.choice([None, "loss", "loss", "loss"])
        workers = f"train.workers={generator.choice([0, 0, 2])}"
        result = runner(
            *run_or_resume_command(run, steps, workers), meanwhile=RandomSignal(generator, number, 0.2, after)
        )
        if result.status == 0:
            break
        assert result.status == codes[number], (number, result)
        assert "Traceback" not in result.err
        assert time.monotonic() - start < 30
        signals += 1
        saved += "interrupted after step" in result.err
        if list_checkpoints(run):
            checkpoint, manifest, faults = find_latest_valid(run)
            assert faults == []
            assert read_latest(run) == checkpoint
            assert manifest.step >= result.last_done_step, "a step is lost"
    print(f"{signals} signals of {times}, {saved} of them with a checkpoint")
    assert signals >= 0.8 * times
    assert saved >= 0.3 * times
    assert resumes_like_uninterrupted(runner, run, steps)


@repeat(20)
def test_second_process_in_a_run_folder_is_rejected(runner: NiRunner, times: int) -> None:
    """At once, whether it starts or resumes a run; when the other one is killed, the folder is free."""
    (runner.folder / "other").mkdir()
    other = NiRunner(runner.folder / "other")
    try:
        for number in range(times):
            run = runner.folder / f"locked-{times}-{number}"
            results: list[RunResult] = []

            def meanwhile(child: int, _: Path, run: Path = run, results: list[RunResult] = results) -> None:
                deadline = time.monotonic() + 60
                while len(list_checkpoints(run)) < 2:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                for arguments in (["small.yaml", "--output", run], ["--resume", run]):
                    results.append(other("train", *arguments))
                os.kill(child, signal.SIGKILL)

            assert runner(*run_or_resume_command(run, 100_000), meanwhile=meanwhile).status == -signal.SIGKILL
            error = f"error: {run}: another process is using this run folder; wait for it to end, or name another --output\n"
            assert [(result.status, result.err) for result in results] == [(1, error)] * 2
            next_result = other("train", "--resume", run, f"train.steps={find_latest_valid(run)[1].step}")
            assert next_result.status in (0, 2), next_result.err
    finally:
        other.close()
        shutil.rmtree(runner.folder / "other")
