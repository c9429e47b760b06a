"""Small programs that `launch_workers` runs as ranks; the launcher is in a process of its own."""

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

# The start of every worker program; the program of the test follows.
WORKER_PRELUDE = """
import os, pathlib, signal, subprocess, sys, time
from ni_framework.distributed.error_files import read_first_error, write_error_file
from ni_framework.distributed.launcher import die_with_parent, dump_stacks_on_signal, supervised_worker
rank, error_dir = int(os.environ["RANK"]), pathlib.Path(os.environ["NI_ERROR_DIR"])
die_with_parent(int(os.environ["NI_SUPERVISOR"]))
dump_stacks_on_signal(sys.stderr)
pathlib.Path(f"up-{rank}").write_text(str(os.getpid()))
def wait_for(*ranks):
    while not all(os.path.exists(f"up-{other}") for other in ranks):
        time.sleep(0.005)
"""
LAUNCHER_SCRIPT = """
import json, sys
from ni_framework.distributed.launcher import launch_workers
marker, world_size, grace, program = sys.argv[1:]
result = launch_workers([sys.executable, "-c", program, marker], int(world_size), float(grace))
with open("result.json", "w") as file:
    json.dump([result.exit_code, result.message, result.rank_zero_silent], file)
"""


class LaunchOutcome(NamedTuple):
    """The result of the launch, what rank 0 and the launcher printed, and how long it took."""

    exit_code: int
    message: str | None
    silent: bool
    out: str
    seconds: float


class LauncherProcess:
    """A launcher in a process of its own, with its workers; each has the argument `marker`, by which it can be found."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.marker = folder, f"marker-{secrets.token_hex(8)}"
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir()
        self.process: subprocess.Popen[str]
        self.started_at = 0.0

    def start(self, program: str, world_size: int = 2, grace: float = 5.0, **environment: str) -> None:
        """Starts the launcher with this program.

        Args:
            program: The program of the ranks, after `WORKER_PRELUDE`.
            world_size: The number of ranks.
            grace: The seconds that ranks have to exit once one has failed.
            environment: Additional environment variables.
        """
        for old in self.folder.glob("up-*"):
            old.unlink()
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER_SCRIPT, self.marker, str(world_size), str(grace), WORKER_PRELUDE + program],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_workers(self, *ranks: int) -> list[int]:
        """Waits until these ranks have started, and returns their process ids."""
        return [int(self.wait_for_file(f"up-{rank}")) for rank in ranks]

    def wait_for_file(self, name: str) -> str:
        """Waits for a file that is not empty, and returns its text."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                if text := (self.folder / name).read_text():
                    return text
            time.sleep(0.005)
        raise AssertionError(f"{name} was never written")

    def wait(self) -> LaunchOutcome:
        """Waits for the launcher to end; no worker and no temporary file may be left then."""
        out, _ = self.process.communicate(timeout=60)
        seconds = time.monotonic() - self.started_at
        assert self.process.returncode == 0, out
        assert self.running_pids() == []
        assert list((self.folder / "tmp").iterdir()) == []
        exit_code, message, silent = json.loads((self.folder / "result.json").read_text())
        return LaunchOutcome(exit_code, message, silent, out, seconds)

    def __call__(self, program: str, world_size: int = 2, grace: float = 5.0, **environment: str) -> LaunchOutcome:
        """Starts the launcher as `start` does, and waits for it to end."""
        self.start(program, world_size, grace, **environment)
        return self.wait()

    def running_pids(self) -> list[int]:
        """Returns the living processes that have the marker among their arguments."""
        lines = subprocess.run(["ps", "-axww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True)
        processes = [line.split(maxsplit=2) for line in lines.stdout.splitlines() if self.marker in line]
        return [int(pid) for pid, state, *_ in processes if not state.startswith("Z")]

    def close(self) -> None:
        """Kills what a failed test has left."""
        for pid in self.running_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
