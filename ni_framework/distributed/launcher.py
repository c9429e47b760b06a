"""Launches the ranks of one run on this machine as processes, and makes sure that all of them end with it."""

from __future__ import annotations

import ctypes
import faulthandler
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING

from ni_framework.distributed.error_files import read_error_files, write_error_file
from ni_framework.distributed.exit_report import (
    LaunchResult,
    WorkerExit,
    describe_signal,
    done_marker_path,
    rank_log_path,
    summarize_exits,
)
from ni_framework.distributed.signals import EXIT_CODES, install_handlers
from ni_framework.errors import UsageError

if TYPE_CHECKING:
    from ni_framework.recipe import Recipe

# Seconds that the other ranks have to write their shards of a checkpoint, once one rank has stopped gracefully.
CHECKPOINT_GRACE = 60.0
# Seconds that a hanging process has to write its stacks.
_STACK_DUMP_SECONDS = 0.5
# From Linux's prctl.h.
_PR_SET_PDEATHSIG = 1


def launch_workers(command: Sequence[str], world_size: int, grace: float = 5.0) -> LaunchResult:
    """Runs a command as the ranks of one run, and returns when all of them have ended.

    Stop signals are forwarded to all ranks. Rank 0 inherits stdin, stdout and stderr.

    Args:
        command: The command and its arguments.
        world_size: The number of ranks.
        grace: The seconds that the other ranks have to exit by themselves once one has failed.
    """
    error_dir = Path(tempfile.mkdtemp(prefix="ni-processes-"))
    try:
        return WorkerGroup(error_dir, grace).run(command, world_size)
    finally:
        shutil.rmtree(error_dir, ignore_errors=True)


class WorkerGroup:
    """The processes of all ranks, and how they ended."""

    def __init__(self, error_dir: Path, grace: float) -> None:
        self.error_dir, self.grace = error_dir, grace
        self.processes: list[subprocess.Popen[bytes]] = []
        # By rank, in the order in which the processes ended.
        self.exits: dict[int, WorkerExit] = {}
        self.received_signals: list[signal.Signals] = []
        self.killed_ranks: set[int] = set()
        self.deadline = math.inf
        # Signals, and the rank and status of each process that ends: from the signal handlers and one thread per process.
        self.events: SimpleQueue[tuple[int, int] | signal.Signals] = SimpleQueue()

    def run(self, command: Sequence[str], world_size: int) -> LaunchResult:
        """Starts the command as `world_size` ranks, and waits for all of them."""
        with install_handlers(lambda received, _: self.events.put(signal.Signals(received)), {}):
            try:
                self._start_workers(command, world_size)
                while len(self.exits) < world_size:
                    self._handle_next_event()
            finally:
                self._kill_running()
                for process in self.processes:
                    process.wait()
        return summarize_exits(list(self.exits.values()), self.error_dir)

    def _start_workers(self, command: Sequence[str], world_size: int) -> None:
        common = _worker_environment(world_size, self.error_dir)
        sys.stdout.flush()
        for rank in range(world_size):
            environment = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # Each rank has its own session: Ctrl-C reaches the launcher alone, and a rank can be killed with its children.
            if rank == 0:
                process = subprocess.Popen(command, env=environment, start_new_session=True)
            else:
                with open(rank_log_path(self.error_dir, rank), "wb") as log:
                    process = subprocess.Popen(
                        command,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
            self.processes.append(process)
        for rank, process in enumerate(self.processes):
            threading.Thread(target=self._wait_for_exit, args=(rank, process), daemon=True).start()

    def _wait_for_exit(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        self.events.put((rank, process.wait()))

    def _handle_next_event(self) -> None:
        """Waits for a signal, the end of a process or the deadline, and handles it."""
        timeout = None if self.deadline == math.inf else max(0.0, self.deadline - time.monotonic())
        try:
            event = self.events.get(timeout=timeout)
        except Empty:
            self._dump_stacks_then_kill()
            return
        if isinstance(event, signal.Signals):
            self._forward_signal(event)
            return
        self._record_exit(*event)

    def _record_exit(self, rank: int, status: int) -> None:
        """Records how a process ended, `status` being negative for a signal, and kills what it has started."""
        _kill_process_group(self.processes[rank])
        signalled = -status in self.received_signals
        code = EXIT_CODES[signal.Signals(-status)] if signalled else 1 if status < 0 else status
        signal_number = -status if status < 0 else None
        self.exits[rank] = worker_exit = WorkerExit(rank, code, signal_number, signalled, rank in self.killed_ranks)
        # A killed rank could not write an error file, in which the other ranks look for the cause.
        if worker_exit.killed_externally and rank not in {error.rank for error in read_error_files(self.error_dir)}:
            write_error_file(self.error_dir, rank, describe_signal(worker_exit), code)
        if code:
            self._shorten_deadline(CHECKPOINT_GRACE if worker_exit.graceful else self.grace)

    def _forward_signal(self, received: signal.Signals) -> None:
        self.received_signals.append(received)
        for rank in self._running_ranks():
            self.processes[rank].send_signal(received)
        # From the second signal on, each rank stops immediately.
        if len(self.received_signals) > 1:
            self._shorten_deadline(self.grace)

    def _shorten_deadline(self, seconds: float) -> None:
        self.deadline = min(self.deadline, time.monotonic() + seconds)

    def _dump_stacks_then_kill(self) -> None:
        """Makes the running ranks write their stacks; when called again, kills them."""
        if self.killed_ranks:
            self._kill_running()
            self.deadline = math.inf
            return
        self.killed_ranks.update(self._running_ranks())
        for rank in self.killed_ranks:
            self.processes[rank].send_signal(signal.SIGUSR2)
            # A process that was stopped (SIGSTOP) could not write anything.
            self.processes[rank].send_signal(signal.SIGCONT)
        self.deadline = time.monotonic() + _STACK_DUMP_SECONDS

    def _kill_running(self) -> None:
        for rank in self._running_ranks():
            _kill_process_group(self.processes[rank])

    def _running_ranks(self) -> list[int]:
        return [rank for rank in range(len(self.processes)) if rank not in self.exits]


def _worker_environment(world_size: int, error_dir: Path) -> Mapping[str, str]:
    """Returns the environment variables of all ranks, with the names that torchrun and other launchers use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // world_size)),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "NI_ERROR_DIR": str(error_dir),
        "NI_SUPERVISED": "1",
        "NI_SUPERVISOR": str(os.getpid()),
    }


def _free_port() -> int:
    """Returns a free port; the system does not assign the same one again soon."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _kill_process_group(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and all that it has started, also if it has just ended itself."""
    # macOS raises PermissionError if all processes of the group have ended.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def check_launch(processes: int | None) -> None:
    """Raises `UsageError` if `--processes` is used in a process that another launcher has started."""
    if processes is not None and "RANK" in os.environ:
        raise UsageError(
            "--processes starts the processes itself, and another launcher has started this one (RANK is set); "
            "remove --processes, or run ni train without the launcher"
        )


def check_engine(recipe: Recipe) -> None:
    """Raises `UsageError` for a recipe that only a single process can train."""
    if recipe.engine.use != "zero":
        raise UsageError(
            f"--processes needs engine.use=zero: with engine.use={recipe.engine.use} one process trains alone; "
            "add engine.use=zero, or remove --processes"
        )


@contextmanager
def supervised_worker() -> Iterator[None]:
    """Prepares this process if `launch_workers` started it: it dies with the launcher, and writes its stacks on SIGUSR2.

    The end of the block marks that this rank has printed all that it had to print, whatever happens to the process later.
    """
    # The variable is removed, because it does not concern the processes that this one starts.
    if (launcher_pid := os.environ.pop("NI_SUPERVISOR", None)) is None:
        yield
        return
    die_with_parent(int(launcher_pid))
    dump_stacks_on_signal(sys.stderr)
    try:
        yield
    finally:
        with suppress(OSError):
            done_marker_path(Path(os.environ["NI_ERROR_DIR"]), int(os.environ["RANK"])).touch()


def die_with_parent(parent_pid: int) -> None:
    """Makes this process end as soon as its parent, which has the process id `parent_pid`, has ended in any way."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        # The parent may have ended before the call.
        _kill_self_if_orphaned(parent_pid)
    else:
        threading.Thread(target=_watch_parent, args=(parent_pid,), daemon=True).start()


def _watch_parent(parent_pid: int) -> None:
    while True:
        _kill_self_if_orphaned(parent_pid)
        time.sleep(1.0)


def _kill_self_if_orphaned(parent_pid: int) -> None:
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def dump_stacks_on_signal(file: IO[str]) -> None:
    """Makes SIGUSR2 write the stacks of all threads to a file, which has to stay open."""
    faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)
