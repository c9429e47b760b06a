"""Combines the exits of all ranks into one exit code, and describes a first failure that its rank could not report itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from ni_framework.distributed.error_files import RankErrorRecord, read_error_files
from ni_framework.distributed.signals import EXIT_CODES
from ni_framework.utils.atomic_files import open_regular_file

_LOG_TAIL_LINES, _LOG_TAIL_BYTES, _MAX_PATH_BYTES = 15, 16_384, 8_192
_CRASH_SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_SIGNAL_HINTS = {int(signal.SIGKILL): "perhaps out of memory"} | {
    int(number): "a crash in compiled code" for number in _CRASH_SIGNALS
}


@frozen
class WorkerExit:
    """How the process of one rank ended.

    Attributes:
        rank: The rank.
        exit_code: Its exit code; the code that stands for the signal if a signal ended it.
        signal_number: The signal that ended it, if any.
        signalled: That signal was a request to stop, and came before the process handled signals.
        killed_by_us: The launcher killed it, because it had not exited in time.
    """

    rank: int
    exit_code: int
    signal_number: int | None
    signalled: bool = False
    killed_by_us: bool = False

    @property
    def killed_externally(self) -> bool:
        """Whether a signal ended it that the launcher did not send."""
        return self.signal_number is not None and not self.signalled and not self.killed_by_us

    @property
    def graceful(self) -> bool:
        """Whether it stopped because of a stop signal."""
        return self.exit_code in EXIT_CODES.values()


@frozen
class LaunchResult:
    """How all ranks ended; `rank_zero_silent`: rank 0 was killed before it could print anything."""

    exit_code: int
    message: str | None
    rank_zero_silent: bool = False


def rank_log_path(folder: Path, rank: int) -> Path:
    """Returns the file for what a rank prints, until its log is named in `rank-N.log-path`."""
    return folder / f"rank-{rank}.log"


def done_marker_path(folder: Path, rank: int) -> Path:
    """Returns the file that exists once a rank has printed all that it had to print."""
    return folder / f"rank-{rank}.done"


def log_path_file(folder: Path, rank: int) -> Path:
    """Returns the file with the path of a rank's log in the run folder, which exists once the rank writes there."""
    return folder / f"rank-{rank}.log-path"


def summarize_exits(exits: Sequence[WorkerExit], error_dir: Path) -> LaunchResult:
    """Combines how all ranks ended into one result.

    Args:
        exits: The exits of all ranks, in their order in time.
        error_dir: The folder with the ranks' error files, logs and markers.
    """
    errors = read_error_files(error_dir)
    code = _first_failure_code(exits, errors)
    if code == 0:
        return LaunchResult(0, None)
    rank_zero = next(worker_exit for worker_exit in exits if worker_exit.rank == 0)
    rank_zero_silent = rank_zero.signal_number is not None and not done_marker_path(error_dir, 0).exists()
    killed = [worker_exit for worker_exit in exits if worker_exit.killed_externally]
    messages = []
    if rank_zero_silent and errors and errors[0].rank not in {worker_exit.rank for worker_exit in killed}:
        messages.append(f"process {errors[0].rank}: {errors[0].message}")
    for worker_exit in killed:
        messages.append(
            f"process {worker_exit.rank} was {describe_signal(worker_exit)}{_log_tail(error_dir, worker_exit.rank)}"
        )
    if unexplained := _first_unexplained_failure(exits, errors, rank_zero_silent):
        messages.append(_describe_exit_code(unexplained) + _log_tail(error_dir, unexplained.rank))
    if killed_ranks := [worker_exit.rank for worker_exit in exits if worker_exit.killed_by_us]:
        messages.append(_describe_killed_ranks(killed_ranks) + _log_tail(error_dir, killed_ranks[0]))
    if rank_zero_silent and not messages:
        messages.append(
            f"stopped immediately by {_signal_name(rank_zero.signal_number or 0)}; what was saved before is not lost"
        )
    return LaunchResult(code, "\n".join(messages) or None, rank_zero_silent)


def _first_failure_code(exits: Sequence[WorkerExit], errors: Sequence[RankErrorRecord]) -> int:
    """Returns the exit code of the rank that failed first: by its error file, or else by the order of the exits."""
    failed = [worker_exit for worker_exit in exits if worker_exit.exit_code]
    failed = [worker_exit for worker_exit in failed if not worker_exit.graceful] or failed
    if not failed:
        return 0
    return next((error.exit_code for error in errors if error.exit_code > 0), failed[0].exit_code)


def _first_unexplained_failure(
    exits: Sequence[WorkerExit], errors: Sequence[RankErrorRecord], rank_zero_silent: bool
) -> WorkerExit | None:
    """Returns the exit that was the first failure, if nothing explains it.

    An error file explains it, and so does rank 0 if it printed a failure with the same exit code.
    """
    failed = [worker_exit for worker_exit in exits if worker_exit.exit_code and not worker_exit.graceful]
    if not failed or failed[0].rank in {0, *(error.rank for error in errors)} or failed[0].killed_by_us:
        return None
    same_as_rank_zero = any(other.rank == 0 and other.exit_code == failed[0].exit_code for other in exits)
    return None if same_as_rank_zero and not rank_zero_silent else failed[0]


def describe_signal(worker_exit: WorkerExit) -> str:
    """Returns which signal ended a process, as in "ended by SIGKILL"."""
    hint = _SIGNAL_HINTS.get(worker_exit.signal_number or 0)
    return f"ended by {_signal_name(worker_exit.signal_number or 0)}" + (f" ({hint})" if hint else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Real-time signals have no name.
        return f"signal {number}"


def _describe_exit_code(worker_exit: WorkerExit) -> str:
    return f"process {worker_exit.rank} ended with exit code {worker_exit.exit_code}"


def _describe_killed_ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"process {ranks[0]} did not exit by itself and was killed"
    *others, last = sorted(ranks)
    return f"processes {', '.join(map(str, others))} and {last} did not exit by themselves and were killed"


def _log_tail(folder: Path, rank: int) -> str:
    """Returns the end of a rank's log, to be appended to a sentence about the rank; empty if it printed nothing."""
    try:
        with open_regular_file(log_path_file(folder, rank), _MAX_PATH_BYTES) as file:
            path, is_in_run_dir = Path(file.read().decode().strip()), True
    except (OSError, ValueError):
        path, is_in_run_dir = rank_log_path(folder, rank), False
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return ""
    tail = [_printable(line) for line in lines if line.strip()][-_LOG_TAIL_LINES:]
    if not tail:
        return ""
    title = f"the log of process {rank}" + (f", {path}," if is_in_run_dir else "")
    return "\n".join([f"; {title} ends:", *(f"    {line}" for line in tail)])


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in line)
