"""Processes of small programs that a supervisor starts together, itself in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# What each process of a test begins with; the rest of its program follows.
CHILD = """
import os, pathlib, signal, subprocess, sys, time
from ni_framework.distributed.error_files import first_note, write_note
from ni_framework.distributed.launcher import die_with, dump_stacks_on_signal, supervised
rank, notes = int(os.environ["RANK"]), pathlib.Path(os.environ["NI_NOTES"])
die_with(int(os.environ["NI_SUPERVISOR"]))
dump_stacks_on_signal(sys.stderr)
pathlib.Path(f"up-{rank}").write_text(str(os.getpid()))
def wait_for(*ranks):
    while not all(os.path.exists(f"up-{other}") for other in ranks):
        time.sleep(0.005)
"""
SUPERVISOR = """
import json, sys
from ni_framework.distributed.launcher import supervise
marker, number, grace, program = sys.argv[1:]
verdict = supervise([sys.executable, "-c", program, marker], int(number), float(grace))
with open("verdict.json", "w") as file:
    json.dump([verdict.exit_code, verdict.message, verdict.silent], file)
"""


class Result(NamedTuple):
    """How it ended: the verdict, what process 0 and the supervisor printed, and how long it took."""

    exit_code: int
    message: str | None
    silent: bool
    out: str
    seconds: float


class Crew:
    """A supervisor in a process of its own, with its processes; `marker` is an argument of each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.marker = folder, f"marker-{secrets.token_hex(8)}"
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir()
        self.process: subprocess.Popen[str]
        self.begun = 0.0

    def start(self, program: str, number: int = 2, grace: float = 5.0, **environment: str) -> None:
        """Starts processes of this program."""
        for old in self.folder.glob("up-*"):
            old.unlink()
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, self.marker, str(number), str(grace), CHILD + program],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def up(self, *ranks: int) -> list[int]:
        """Waits until these have started, and returns their process ids."""
        return [int(self.written(f"up-{rank}")) for rank in ranks]

    def written(self, name: str) -> str:
        """Waits for a file with something in it."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                if text := (self.folder / name).read_text():
                    return text
            time.sleep(0.005)
        raise AssertionError(f"{name} was never written")

    def end(self) -> Result:
        """Waits for the end; nothing may be left then."""
        out, _ = self.process.communicate(timeout=60)
        seconds = time.monotonic() - self.begun
        assert self.process.returncode == 0, out
        assert self.living() == []
        assert list((self.folder / "tmp").iterdir()) == []
        exit_code, message, silent = json.loads((self.folder / "verdict.json").read_text())
        return Result(exit_code, message, silent, out, seconds)

    def __call__(self, program: str, number: int = 2, grace: float = 5.0, **environment: str) -> Result:
        """From start to end."""
        self.start(program, number, grace, **environment)
        return self.end()

    def living(self) -> list[int]:
        """The processes that have the marker among their arguments and are not dead."""
        lines = subprocess.run(["ps", "-axww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True)
        found = [line.split(maxsplit=2) for line in lines.stdout.splitlines() if self.marker in line]
        return [int(pid) for pid, state, *_ in found if not state.startswith("Z")]

    def close(self) -> None:
        """Ends whatever a failed test has left."""
        for pid in self.living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
