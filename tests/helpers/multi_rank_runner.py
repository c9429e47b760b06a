"""Runs of several processes that `ni train --processes` starts, and what goes wrong in them: a plugin of one file."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ni_framework.checkpoint.run_dir import checkpoints_of
from tests.helpers.ni_runner import Ended, Runner
from tests.helpers.small_recipe import TEXT

ZERO = TEXT + "engine: {use: zero}\n"
OVERRIDES = ("train.log_every=1", "train.evaluate_every=7", "train.average=0.9", "model.router=stochastic_kernel")

# Something goes wrong in one process, the n-th time that it passes a place: FAULTY=<rank>,<place>,<n>,<how>.
FAULTY = """
import os, signal, sys, time
import torch
from ni_framework.cli.progress import Progress
from ni_framework.contracts import hookimpl
from ni_standard.data.digits import Digits
from ni_standard.heads.classify import Classify

seen = {}

def at(place):
    where = os.environ["FAULTY"].split(",")
    if os.environ["RANK"] != where[0] or place != where[1]:
        return
    seen[place] = seen.get(place, 0) + 1
    if seen[place] < int(where[2]):
        return
    how = where[3]
    if how == "raise":
        raise ValueError(f"a fault in {place}")
    if how == "exit":
        sys.exit("has had enough")
    if how == "sleep":
        time.sleep(1000)
    if how == "slow":
        time.sleep(0.1)
    if how == "full":
        def full(descriptor):
            raise OSError(28, "No space left on device")
        os.fsync = full
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)

told = Progress.run_log

@hookimpl
def run_log(self, step, metrics):
    told(self, step=step, metrics=metrics)
    at("listener")

Progress.run_log = run_log

class Split:
    def __init__(self, split, training):
        self.split, self.training = split, training
    def __len__(self):
        return len(self.split)
    def batch(self, index_B, key_B):
        if key_B is not None and self.training:
            at("data")
        return self.split.batch(index_B, key_B)

class FaultyData(Digits):
    def open(self):
        at("open")
        return {name: Split(split, name == "train") for name, split in super().open().items()}

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()
    @staticmethod
    def backward(context, gradient):
        at("backward")
        return gradient

class FaultyHead(Classify):
    def forward(self, x_BVD, present_BV, tasks):
        if torch.is_grad_enabled():
            at("forward")
        elif not self.training:
            at("evaluation")
        return {task: Backward.apply(logits) for task, logits in super().forward(x_BVD, present_BV, tasks).items()}
"""


def living(folder: Path) -> list[int]:
    """The processes that a run in this folder has started and that have not ended: they stand in it, or a child does."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if Path(os.readlink(entry / "cwd")) == folder and "State:\tZ" not in (entry / "status").read_text():
                    found.append(int(entry.name))
    return found


class Several(Runner):
    """Starts `ni train --processes N` in a folder that holds small.yaml with engine.use=zero, and faulty.py."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ZERO)
        (folder / "faulty.py").write_text(FAULTY)

    def __call__(
        self, *arguments: object, meanwhile: Callable[[int, Path], Any] | None = None, **request: Any
    ) -> Ended:
        """As `Runner`; when it has ended, nobody is left."""
        ended = super().__call__(*arguments, meanwhile=meanwhile, **request)
        left = living(self.folder.resolve())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert left == [], f"processes are left over; {ended}"
        return ended

    def command(self, run: Path, steps: int, *more: object, processes: int = 2) -> list[object]:
        """Begins a run that saves every step, or goes on with it."""
        if checkpoints_of(run):
            return ["train", "--processes", processes, "--resume", run.name, *more]
        saving = ["--every", 1, "--keep", 3, "--output", run.name]
        return ["train", "--processes", processes, "small.yaml", f"train.steps={steps}", *OVERRIDES, *saving, *more]


class Timed:
    """Does something at the moment that a word is said, or once a process has started, and measures what follows."""

    def __init__(self, runner: Runner, act: Callable[[int], object], pause: float, after: str | None) -> None:
        self.runner, self.act, self.pause, self.after = runner, act, pause, after
        self.at = 0.0

    def __call__(self, child: int, said: Path) -> None:
        self.runner.rank(0)
        end = time.monotonic() + 60
        while self.after is not None and not (said.exists() and re.search(self.after, said.read_text())):
            status = Path(f"/proc/{child}/status").read_text()
            if "State:\tZ" in status:
                return
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.002)
        time.sleep(self.pause)
        self.at = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            self.act(child)

    @property
    def seconds(self) -> float:
        """Since then."""
        return time.monotonic() - self.at
