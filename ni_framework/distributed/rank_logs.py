"""A log file for each process of a run, and what is told of a process that failed."""

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

from ni_framework.distributed.communicator import Elsewhere, Team, cause, lost
from ni_framework.distributed.error_files import first_note, write_note
from ni_framework.distributed.signals import Interrupted
from ni_framework.errors import NIError, RunError

LOGS = "logs"  # in a run folder
_PATIENCE = 1.0  # seconds in which the process that failed first has written why


def forget_notes(run: Path) -> None:
    """Removes what the processes of an earlier attempt, perhaps more of them, have written of their failure."""
    for note in (run / LOGS).glob("rank-*.json"):
        note.unlink(missing_ok=True)


@contextmanager
def logged(run: Path, team: Team, engine: str) -> Iterator[TextIO | None]:
    """The log of this process in a run folder, `logs/rank-N.log`, while it trains with others or with DeepSpeed.

    Whatever is printed goes there and not to stdout, which is for results. The first process speaks on stderr as ever; of
    the others stderr goes there too, and stays there.
    """
    if engine == "local":
        yield None
        return
    folder = run / LOGS
    folder.mkdir(exist_ok=True)
    notes = Path(os.environ.get("NI_NOTES") or folder)
    if "NI_NOTES" in os.environ and team.rank:
        (notes / f"rank-{team.rank}.where").write_text(str((folder / f"rank-{team.rank}.log").resolve()))
    with open(folder / f"rank-{team.rank}.log", "a", buffering=1, encoding="utf-8") as log:
        print(
            f"{datetime.now():%F %T} process {team.rank} of {team.size} on {platform.node()}, pid {os.getpid()}",
            file=log,
        )
        faulthandler.register(signal.SIGUSR2, file=log)  # for whoever ends this process because it hangs
        sys.stdout.flush()
        stdout = os.dup(1)
        os.dup2(log.fileno(), 1)
        if team.rank:
            sys.stderr.flush()
            os.dup2(log.fileno(), 2)
        try:
            with _noted(notes, team, log):
                yield log
        finally:
            faulthandler.unregister(signal.SIGUSR2)
            sys.stdout.flush()
            if team.leads:
                os.dup2(stdout, 1)
            os.close(stdout)


@contextmanager
def _noted(folder: Path, team: Team, log: TextIO) -> Iterator[None]:
    """Writes down why this process fails; where it only lost the others, tells why they did."""
    try:
        yield
    except (Interrupted, Elsewhere):
        raise
    except (Exception, SystemExit) as error:
        traceback.print_exc(file=log)
        if team.size == 1:
            raise
        if lost(error):
            raise _first(folder, team, error) from error
        message, exit_code, _ = cause(error)
        write_note(folder, team.rank, message, exit_code)
        raise


def _first(folder: Path, team: Team, error: BaseException) -> NIError:
    end = time.monotonic() + _PATIENCE
    while (note := first_note(folder)) is None and time.monotonic() < end:
        time.sleep(0.05)
    if note is not None:
        return Elsewhere(f"process {note.rank}: {note.message}", note.exit_code)
    reason = str(error).partition("\n")[0][:200]
    return RunError(
        f"process {team.rank} lost the others: one of them has ended without a word, or answers no more ({reason}); "
        f"see {LOGS}/ in the run folder"
    )
