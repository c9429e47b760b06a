"""A run that is killed or interrupted at any instant loses at most what it did since its last checkpoint."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

from ni_framework.checkpoint.run_dir import checkpoints_of, newest_good, pointed_to
from tests.checkpoint.test_resume import left_behind
from tests.helpers.ni_runner import Ended, Runner, Signal, repeated

OVERRIDES = ("train.log_every=1", "train.evaluate_every=7", "train.average=0.9", "model.router=stochastic_kernel")


def command(run: Path, steps: int, *more: object) -> list[object]:
    """Begins a run that saves every step, or goes on with it."""
    if checkpoints_of(run):
        return ["train", "--resume", run.name, *more]
    return [
        "train",
        "small.yaml",
        f"train.steps={steps}",
        *OVERRIDES,
        "--every",
        1,
        "--keep",
        3,
        "--output",
        run.name,
        *more,
    ]


def equals_whole(runner: Runner, run: Path, steps: int) -> bool:
    """Whether a run, gone on with to its end, is to the last bit the one to which nothing happened."""
    ended = runner(*command(run, steps))
    assert ended.status == 0 or "has done all of its" in ended.err, ended.err
    whole = runner.folder / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    assert runner(*command(whole, steps)).status == 0
    return left_behind(run) == left_behind(whole)


@repeated(50)
def test_killed_while_saving_every_step(runner: Runner, times: int) -> None:
    """Each time the newest checkpoint is whole and not more than one step behind; in the end, no bit differs."""
    steps, generator = 25 * times, random.Random(times)
    run = runner.folder / "killed"
    shutil.rmtree(run, ignore_errors=True)
    kills = 0
    while kills < times:
        after = generator.choice([None, "saved", "saved", "saved"])  # one in four while it starts
        ended = runner(*command(run, steps), meanwhile=Signal(generator, signal.SIGKILL, 0.2, after))
        if ended.status == 0:
            break
        assert ended.status == -signal.SIGKILL, ended.err
        kills += 1
        if checkpoints_of(run):
            _, manifest, faults = newest_good(run)
            assert (faults, manifest.step >= ended.saved, manifest.step >= ended.done - 1) == ([], True, True)
    print(f"{kills} kills of {times}, then step {newest_good(run)[1].step} of {steps}")
    assert kills >= 0.8 * times
    assert equals_whole(runner, run, steps)
    assert [entry.name for entry in (run / "checkpoints").iterdir() if entry.name.startswith(".")] == []
    assert len(checkpoints_of(run)) == 3


@repeated(50)
def test_interrupted_at_any_instant(runner: Runner, times: int) -> None:
    """Its exit code says so, what is left is whole, and in the end no bit differs."""
    steps, generator = 25 * times, random.Random(times)
    run = runner.folder / "interrupted"
    shutil.rmtree(run, ignore_errors=True)
    codes = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
    signals, saved = 0, 0
    while signals < times:
        number = generator.choice(list(codes))
        begin = time.monotonic()
        after = generator.choice([None, "loss", "loss", "loss"])  # one in four while it starts
        workers = f"train.workers={generator.choice([0, 0, 2])}"
        ended = runner(*command(run, steps, workers), meanwhile=Signal(generator, number, 0.2, after))
        if ended.status == 0:
            break
        assert ended.status == codes[number], (number, ended)
        assert "Traceback" not in ended.err
        assert time.monotonic() - begin < 30
        signals += 1
        saved += "interrupted after step" in ended.err
        if checkpoints_of(run):
            checkpoint, manifest, faults = newest_good(run)
            assert (faults, pointed_to(run)) == ([], checkpoint)
            assert manifest.step >= ended.done  # nothing at all is lost
    print(f"{signals} signals of {times}, {saved} of them answered with a checkpoint")
    assert signals >= 0.8 * times
    assert saved >= 0.3 * times
    assert equals_whole(runner, run, steps)


@repeated(20)
def test_two_jobs_in_one_run_folder(runner: Runner, times: int) -> None:
    """The second is refused at once, whether it would begin or go on; when the first is killed, its place is free."""
    (runner.folder / "other").mkdir()
    other = Runner(runner.folder / "other")
    try:
        for number in range(times):
            run = runner.folder / f"held-{times}-{number}"
            ended: list[Ended] = []

            def meanwhile(child: int, _: Path, run: Path = run, ended: list[Ended] = ended) -> None:
                deadline = time.monotonic() + 60
                while len(checkpoints_of(run)) < 2:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                for arguments in (["small.yaml", "--output", run], ["--resume", run]):
                    ended.append(other("train", *arguments))
                os.kill(child, signal.SIGKILL)

            assert runner(*command(run, 100_000), meanwhile=meanwhile).status == -signal.SIGKILL
            refusal = (
                f"error: {run}: another process is at work in this run folder; wait for it, or name another --output\n"
            )
            assert [(found.status, found.err) for found in ended] == [(1, refusal)] * 2
            free = other("train", "--resume", run, f"train.steps={newest_good(run)[1].step}")
            assert free.status in (0, 2), free.err
    finally:
        other.close()
        shutil.rmtree(runner.folder / "other")
