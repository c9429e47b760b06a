"""Runs of `ni` that are killed, interrupted or have a failing disk; `NiRunner` starts them quickly."""

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

from tests.helpers.small_recipe import SMALL_RECIPE_YAML

ROOT = Path(__file__).parents[2]


def repeat(full: int) -> pytest.MarkDecorator:
    """Parametrizes a test with a tenth of its repetitions, and with all of them under `pytest -m soak`."""
    return pytest.mark.parametrize("times", [full // 10, pytest.param(full, marks=pytest.mark.soak)])


class RunResult(NamedTuple):
    """How a run ended: `status` as `subprocess` returns it, negative for a signal."""

    status: int
    out: str
    err: str

    @property
    def last_saved_step(self) -> int:
        """The last step that it reported as saved."""
        return max((int(step) for step in re.findall(r"^step (\d+)/\d+  saved ", self.err, re.M)), default=0)

    @property
    def last_done_step(self) -> int:
        """The last step that it reported as done."""
        return max((int(step) for step in re.findall(r"^step (\d+)/\d+  loss ", self.err, re.M)), default=0)


class NiRunner:
    """Starts `ni` in a folder with small.yaml."""

    def __init__(self, folder: Path, text: str = SMALL_RECIPE_YAML) -> None:
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
        assert self._read_reply() == "ready"

    def __call__(
        self, *arguments: object, meanwhile: Callable[[int, Path], Any] | None = None, **request: Any
    ) -> RunResult:
        """Runs a command to its end.

        Args:
            arguments: The arguments of `ni`.
            meanwhile: Is called with the process id and the file of stderr while the command runs.
            request: More keys of the fork server's request.
        """
        out, err = self.folder / "stdout", self.folder / "stderr"
        for path in (out, err, *self.folder.glob("rank-*")):
            path.unlink(missing_ok=True)
        document = {"arguments": [str(argument) for argument in arguments], "cwd": str(self.folder)}
        document |= {"stdout": str(out), "stderr": str(err)} | request
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(document) + "\n")
        self.process.stdin.flush()
        child = int(self._read_reply())
        if meanwhile is not None:
            meanwhile(child, err)
        status = int(self._read_reply())
        return RunResult(status, *(path.read_text() if path.exists() else "" for path in (out, err)))

    def _read_reply(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_for_rank(self, number: int) -> int:
        """Waits until a rank has started, and returns its process id."""
        deadline = time.monotonic() + 30
        while not (pid_file := self.folder / f"rank-{number}.pid").exists():
            assert time.monotonic() < deadline, f"process {number} was never started"
            time.sleep(0.002)
        return int(pid_file.read_text())

    def close(self) -> None:
        """Ends the fork server."""
        self.process.communicate(timeout=30)


class RandomSignal:
    """Sends a signal at a random instant after the run handles signals, or after it has printed a word, such as "saved"."""

    def __init__(self, generator: random.Random, number: int, longest: float, after: str | None = None) -> None:
        self.number, self.pause, self.after = number, generator.uniform(0, longest), after

    def __call__(self, child: int, stderr_path: Path) -> None:
        while not self._ready(child, stderr_path):
            time.sleep(0.001)
        time.sleep(self.pause)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, self.number)

    def _ready(self, child: int, stderr_path: Path) -> bool:
        try:
            status = Path(f"/proc/{child}/status").read_text()
        except OSError:
            # The process has ended.
            return True
        if self.after is not None:
            return "State:\tZ" in status or (stderr_path.exists() and self.after in stderr_path.read_text())
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.M)
        return self.number == signal.SIGKILL or caught is None or bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)
