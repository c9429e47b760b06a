"""The processes of one run on this machine: started together, ended together, and none is left behind."""

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

from ni_framework.distributed.error_files import read_notes, write_note
from ni_framework.distributed.exit_report import Ended, Verdict, killed_by, log_of, said_by, verdict
from ni_framework.distributed.signals import EXIT_CODES, handled
from ni_framework.errors import UsageError

if TYPE_CHECKING:
    from ni_framework.recipe import Recipe

SAVING = 60.0  # seconds that the others have once one has stopped in order, for their part of a checkpoint
_DUMPING = 0.5  # seconds to write down where a process hangs
_PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


def supervise(command: Sequence[str], number: int, grace: float = 5.0) -> Verdict:
    """Runs a command as `number` processes that know one another, and returns when all have ended.

    Signals that ask a run to stop go on to each of them. Once one has failed, the others have `grace` seconds to end by
    themselves. Process 0 has our stdin, stdout and stderr.
    """
    notes = Path(tempfile.mkdtemp(prefix="ni-processes-"))
    try:
        return _Crew(notes, grace).run(command, number)
    finally:
        shutil.rmtree(notes, ignore_errors=True)


class _Crew:
    """The processes, and what has happened to them."""

    def __init__(self, notes: Path, grace: float) -> None:
        self.notes, self.grace = notes, grace
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ended: dict[int, Ended] = {}  # by rank, in the order in which they ended
        self.received: list[signal.Signals] = []
        self.forced: set[int] = set()
        self.deadline = math.inf
        # Signal handlers and one waiting thread per process put here what happens, in its order.
        self.events: SimpleQueue[tuple[int, int] | signal.Signals] = SimpleQueue()

    def run(self, command: Sequence[str], number: int) -> Verdict:
        with handled(lambda received, _: self.events.put(signal.Signals(received)), {}):
            try:
                self._start(command, number)
                while len(self.ended) < number:
                    self._wait()
            finally:
                self._kill()
                for process in self.processes:
                    process.wait()
        return verdict(list(self.ended.values()), self.notes)

    def _start(self, command: Sequence[str], number: int) -> None:
        common = _environment(number, self.notes)
        sys.stdout.flush()
        for rank in range(number):
            environment = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A session of its own: Ctrl-C reaches us alone, and whatever a process starts can be ended with it.
            if rank == 0:
                process = subprocess.Popen(command, env=environment, start_new_session=True)
            else:
                with open(log_of(self.notes, rank), "wb") as log:
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
            threading.Thread(target=self._await, args=(rank, process), daemon=True).start()

    def _await(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        self.events.put((rank, process.wait()))

    def _wait(self) -> None:
        """Waits for what happens next, and answers it."""
        left = None if self.deadline == math.inf else max(0.0, self.deadline - time.monotonic())
        try:
            event = self.events.get(timeout=left)
        except Empty:
            self._end()
            return
        if isinstance(event, signal.Signals):
            self._forward(event)
            return
        rank, status = event
        _end_group(self.processes[rank])
        asked = -status in self.received
        code = EXIT_CODES[signal.Signals(-status)] if asked else 1 if status < 0 else status
        by = -status if status < 0 else None
        self.ended[rank] = ended = Ended(rank, code, by, asked, rank in self.forced)
        if ended.killed and rank not in {note.rank for note in read_notes(self.notes)}:
            write_note(self.notes, rank, killed_by(ended), code)  # it cannot; those that miss it look for why
        if code:
            self._at_most(SAVING if ended.in_order else self.grace)

    def _forward(self, received: signal.Signals) -> None:
        self.received.append(received)
        for rank in self._living():
            self.processes[rank].send_signal(received)
        if len(self.received) > 1:  # from the second on, each of them stops at once
            self._at_most(self.grace)

    def _at_most(self, seconds: float) -> None:
        self.deadline = min(self.deadline, time.monotonic() + seconds)

    def _end(self) -> None:
        """Asks those that still live where they hang; when called again, ends them."""
        if self.forced:
            self._kill()
            self.deadline = math.inf
            return
        self.forced.update(self._living())
        for rank in self.forced:
            self.processes[rank].send_signal(signal.SIGUSR2)
            self.processes[rank].send_signal(signal.SIGCONT)  # one that was halted cannot answer
        self.deadline = time.monotonic() + _DUMPING

    def _kill(self) -> None:
        for rank in self._living():
            _end_group(self.processes[rank])

    def _living(self) -> list[int]:
        return [rank for rank in range(len(self.processes)) if rank not in self.ended]


def _environment(number: int, notes: Path) -> Mapping[str, str]:
    """What all processes are told, in the words that every launcher uses."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // number)),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "NI_NOTES": str(notes),
        "NI_SUPERVISED": "1",
        "NI_SUPERVISOR": str(os.getpid()),
    }


def _free_port() -> int:
    """A port that nobody listens on; the system gives the same one to others only after many more."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it has started, also when it has just ended itself."""
    with suppress(ProcessLookupError, PermissionError):  # macOS forbids it where only the dead are left
        os.killpg(process.pid, signal.SIGKILL)


def check_launch(processes: int | None) -> None:
    """Raises `UsageError` where processes shall be started in one that a launcher has started."""
    if processes is not None and "RANK" in os.environ:
        raise UsageError(
            "--processes starts the processes itself, and another launcher has started this one (RANK is set); "
            "leave --processes out, or run ni train without the launcher"
        )


def check_engine(recipe: Recipe) -> None:
    """Raises `UsageError` for a recipe that only one process can train."""
    if recipe.engine.use != "zero":
        raise UsageError(
            f"--processes needs engine.use=zero: with engine.use={recipe.engine.use} one process trains alone; "
            "add engine.use=zero, or leave --processes out"
        )


@contextmanager
def supervised() -> Iterator[None]:
    """Makes this process one that `supervise` started, if it is: it never outlives that, and can be asked where it hangs.

    When the block ends all has been said, whatever becomes of the process then.
    """
    if (supervisor := os.environ.pop("NI_SUPERVISOR", None)) is None:  # what this process starts is not meant
        yield
        return
    die_with(int(supervisor))
    dump_stacks_on_signal(sys.stderr)
    try:
        yield
    finally:
        with suppress(OSError):
            said_by(Path(os.environ["NI_NOTES"]), int(os.environ["RANK"])).touch()


def die_with(parent: int) -> None:
    """Has this process end as soon as its parent, which has this process id, has ended in whatever way."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        _end_if_orphaned(parent)  # it may have ended before
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while True:
        _end_if_orphaned(parent)
        time.sleep(1.0)


def _end_if_orphaned(parent: int) -> None:
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def dump_stacks_on_signal(file: IO[str]) -> None:
    """Has SIGUSR2 write where all threads are into a file, which has to stay open."""
    faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)
