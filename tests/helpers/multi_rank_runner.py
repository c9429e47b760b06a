"""Runs with several ranks that `ni train --processes` starts, and a single-file plugin that makes one rank fail."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ni_framework.checkpoint.run_dir import list_checkpoints
from tests.helpers.ni_runner import NiRunner, RunResult
from tests.helpers.small_recipe import SMALL_RECIPE_YAML

ZERO_RECIPE_YAML = SMALL_RECIPE_YAML + "engine: {use: zero}\n"
RUN_OVERRIDES = ("train.log_every=1", "train.evaluate_every=7", "train.ema_decay=0.9", "model.router=stochastic_kernel")

# One rank fails when it passes a place in the code for the n-th time: FAULTY=<rank>,<place>,<n>,<how>.
FAULTY_PLUGIN = """
import os, signal, sys, time
import torch
from ni_framework.cli.progress import ProgressListener
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

original_run_log = ProgressListener.run_log

@hookimpl
def run_log(self, step, metrics):
    original_run_log(self, step=step, metrics=metrics)
    at("listener")

ProgressListener.run_log = run_log

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


def running_pids(folder: Path) -> list[int]:
    """Returns the living processes whose working directory is this folder: those of its run, and their children."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if Path(os.readlink(entry / "cwd")) == folder and "State:\tZ" not in (entry / "status").read_text():
                    pids.append(int(entry.name))
    return pids


class MultiRankRunner(NiRunner):
    """Starts `ni train --processes N` in a folder with small.yaml (engine.use=zero) and faulty.py."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ZERO_RECIPE_YAML)
        (folder / "faulty.py").write_text(FAULTY_PLUGIN)

    def __call__(
        self, *arguments: object, meanwhile: Callable[[int, Path], Any] | None = None, **request: Any
    ) -> RunResult:
        """Runs a command as `NiRunner` does, and asserts that no process is left when it has ended."""
        result = super().__call__(*arguments, meanwhile=meanwhile, **request)
        remaining = running_pids(self.folder.resolve())
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert remaining == [], f"processes are left over; {result}"
        return result

    def command(self, run: Path, steps: int, *more: object, processes: int = 2) -> list[object]:
        """Returns the arguments that start a run with a checkpoint at every step, or resume it if it has checkpoints.

        Args:
            run: The run folder.
            steps: The number of steps of a new run.
            more: More arguments.
            processes: The number of ranks.
        """
        if list_checkpoints(run):
            return ["train", "--processes", processes, "--resume", run.name, *more]
        saving = ["--every", 1, "--keep-last", 3, "--output", run.name]
        return ["train", "--processes", processes, "small.yaml", f"train.steps={steps}", *RUN_OVERRIDES, *saving, *more]


class TimedAction:
    """Calls `act` when stderr matches the pattern `after`, or when rank 0 has started, and measures the time from then on."""

    def __init__(self, runner: NiRunner, act: Callable[[int], object], pause: float, after: str | None) -> None:
        self.runner, self.act, self.pause, self.after = runner, act, pause, after
        self.acted_at = 0.0

    def __call__(self, child: int, stderr_path: Path) -> None:
        self.runner.wait_for_rank(0)
        deadline = time.monotonic() + 60
        while self.after is not None and not (stderr_path.exists() and re.search(self.after, stderr_path.read_text())):
            status = Path(f"/proc/{child}/status").read_text()
            if "State:\tZ" in status:
                return
            assert time.monotonic() < deadline, stderr_path.read_text()
            time.sleep(0.002)
        time.sleep(self.pause)
        self.acted_at = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            self.act(child)

    @property
    def seconds(self) -> float:
        """The seconds since `act` was called."""
        return time.monotonic() - self.acted_at
