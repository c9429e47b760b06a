"""A log file for each rank of a run, and the error of a rank that failed."""

from __future__ import annotations

import faulthandler
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from ni_framework.distributed.communicator import Communicator, RemoteRankError, describe_error, is_connection_error
from ni_framework.distributed.error_files import read_first_error, write_error_file
from ni_framework.distributed.exit_report import log_path_file
from ni_framework.distributed.signals import RunInterrupted
from ni_framework.errors import NIError, RunError

# The folder of logs in a run folder.
LOG_DIR = "logs"
# Seconds to wait for the error file of the rank that failed first.
ERROR_FILE_WAIT = 1.0


def remove_error_files(run: Path) -> None:
    """Removes the error files of an earlier attempt, which may have had more ranks."""
    for error_file in (run / LOG_DIR).glob("rank-*.json"):
        error_file.unlink(missing_ok=True)


@contextmanager
def rank_log(run: Path, comm: Communicator, engine: str) -> Iterator[TextIO | None]:
    """Opens the log of this rank, `logs/rank-N.log` in the run folder; yields None for the local engine, which has no log.

    Stdout is for results, so that whatever is printed inside the block goes to the log. Stderr of rank 0 stays as it is;
    stderr of the other ranks goes to the log, also after the block.

    Args:
        run: The run folder.
        comm: The rank of this process.
        engine: The name of the engine.
    """
    if engine == "local":
        yield None
        return
    folder = run / LOG_DIR
    folder.mkdir(exist_ok=True)
    error_dir = Path(os.environ.get("NI_ERROR_DIR") or folder)
    path = folder / f"rank-{comm.rank}.log"
    if "NI_ERROR_DIR" in os.environ and comm.rank:
        log_path_file(error_dir, comm.rank).write_text(str(path.resolve()))
    with open(path, "a", buffering=1, encoding="utf-8") as log:
        print(
            f"{datetime.now():%F %T} process {comm.rank} of {comm.world_size} on {platform.node()}, pid {os.getpid()}",
            file=log,
        )
        # The launcher sends this signal before it kills a process that hangs.
        faulthandler.register(signal.SIGUSR2, file=log)
        sys.stdout.flush()
        stdout = os.dup(1)
        os.dup2(log.fileno(), 1)
        if comm.rank:
            sys.stderr.flush()
            os.dup2(log.fileno(), 2)
        try:
            with _record_failure(error_dir, comm, log):
                yield log
        finally:
            faulthandler.unregister(signal.SIGUSR2)
            sys.stdout.flush()
            if comm.is_rank_zero:
                os.dup2(stdout, 1)
            os.close(stdout)


@contextmanager
def _record_failure(folder: Path, comm: Communicator, log: TextIO) -> Iterator[None]:
    """Writes why this rank fails; if it only lost the connection to others, raises the error of the rank that failed first."""
    try:
        yield
    except (RunInterrupted, RemoteRankError):
        raise
    except (Exception, SystemExit) as error:
        traceback.print_exc(file=log)
        if comm.world_size == 1:
            raise
        if is_connection_error(error):
            raise _first_failure_error(folder, comm, error) from error
        message, exit_code, _ = describe_error(error)
        write_error_file(folder, comm.rank, message, exit_code)
        raise


def _first_failure_error(folder: Path, comm: Communicator, error: BaseException) -> NIError:
    end = time.monotonic() + ERROR_FILE_WAIT
    while (record := read_first_error(folder)) is None and time.monotonic() < end:
        time.sleep(0.05)
    if record is not None:
        return RemoteRankError(f"process {record.rank}: {record.message}", record.exit_code)
    reason = str(error).partition("\n")[0][:200]
    return RunError(
        f"process {comm.rank} lost contact with the others: one of them has ended silently, or no longer answers ({reason}); "
        f"see {LOG_DIR}/ in the run folder"
    )
