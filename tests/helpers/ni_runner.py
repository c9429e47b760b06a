"""Runs of `ni` that are killed, interrupted or given a failing disk; `Runner` starts them quickly."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.small_recipe import TEXT

ROOT = Path(__file__).parents[2]


def repeated(full: int) -> pytest.MarkDecorator:
    """A test run with a tenth of its repetitions; with all of them under `pytest -m soak`."""
    return pytest.mark.parametrize("times", [full // 10, pytest.param(full, marks=pytest.mark.soak)])


class Ended(NamedTuple):
    """How a run ended: as `subprocess` says it, negative for a signal."""

    status: int
    out: str
    err: str

    @property
    def saved(self) -> int:
        """The last step that it said was saved."""
        return max((int(step) for step in re.findall(r"^step (\d+)/\d+  saved ", self.err, re.M)), default=0)

    @property
    def done(self) -> int:
        """The last step that it said was done."""
        return max((int(step) for step in re.findall(r"^step (\d+)/\d+  loss ", self.err, re.M)), default=0)


class Runner:
    """Starts `ni` in a folder that holds small.yaml."""

    def __init__(self, folder: Path, text: str = TEXT) -> None:
        self.folder = folder
        (folder / "small.yaml").write_text(text)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.fork_server", str(folder / "small.yaml")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._answer() == "ready"

    def __call__(
        self, *arguments: object, meanwhile: Callable[[int, Path], Any] | None = None, **request: Any
    ) -> Ended:
        """Runs a command to its end; `meanwhile` is called with its process id and the file of its stderr."""
        out, err = self.folder / "stdout", self.folder / "stderr"
        for path in (out, err, *self.folder.glob("rank-*")):
            path.unlink(missing_ok=True)
        document = {"arguments": [str(argument) for argument in arguments], "cwd": str(self.folder)}
        document |= {"stdout": str(out), "stderr": str(err)} | request
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(document) + "\n")
        self.process.stdin.flush()
        child = int(self._answer())
        if meanwhile is not None:
            meanwhile(child, err)
        status = int(self._answer())
        return Ended(status, *(path.read_text() if path.exists() else "" for path in (out, err)))

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def rank(self, number: int) -> int:
        """The process id of one of several, as soon as it has started."""
        end = time.monotonic() + 30
        while not (place := self.folder / f"rank-{number}.pid").exists():
            assert time.monotonic() < end, f"process {number} was never started"
            time.sleep(0.002)
        return int(place.read_text())

    def close(self) -> None:
        """Ends the process that forks."""
        self.process.communicate(timeout=30)


class Signal:
    """Sends a signal at a random instant: after the run listens to it, or after it has said a word ("saved")."""

    def __init__(self, generator: random.Random, number: int, longest: float, after: str | None = None) -> None:
        self.number, self.pause, self.after = number, generator.uniform(0, longest), after

    def __call__(self, child: int, said: Path) -> None:
        while not self._ready(child, said):
            time.sleep(0.001)
        time.sleep(self.pause)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, self.number)

    def _ready(self, child: int, said: Path) -> bool:
        try:
            status = Path(f"/proc/{child}/status").read_text()
        except OSError:
            return True  # it has ended
        if self.after is not None:
            return "State:\tZ" in status or (said.exists() and self.after in said.read_text())
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.M)
        return self.number == signal.SIGKILL or caught is None or bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)
