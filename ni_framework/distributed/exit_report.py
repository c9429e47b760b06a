"""What the end of several processes comes to: one exit code, and what the first of them could not say itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from ni_framework.distributed.error_files import Note, read_notes
from ni_framework.distributed.signals import EXIT_CODES
from ni_framework.utils.atomic_files import open_plain

_LINES, _BYTES, _LONGEST_PATH = 15, 16_384, 8_192
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_HINTS = {int(signal.SIGKILL): "out of memory, perhaps"} | {int(one): "a crash in compiled code" for one in _CRASHES}


@frozen
class Ended:
    """How one process ended."""

    rank: int
    exit_code: int  # what it stands for where a signal ended it
    signal: int | None  # that signal
    asked: bool = False  # the signal was a request to stop, and came before the process listened to any
    forced: bool = False  # it had been given its time, and was killed

    @property
    def killed(self) -> bool:
        """Whether a signal ended it that is not of our doing."""
        return self.signal is not None and not self.asked and not self.forced

    @property
    def in_order(self) -> bool:
        """Whether it stopped because it was asked to."""
        return self.exit_code in EXIT_CODES.values()


@frozen
class Verdict:
    """How they ended together; `silent`: process 0 was ended before it could say anything."""

    exit_code: int
    message: str | None
    silent: bool = False


def log_of(folder: Path, rank: int) -> Path:
    """The file for what a process prints, until it names another in `rank-N.where`."""
    return folder / f"rank-{rank}.log"


def said_by(folder: Path, rank: int) -> Path:
    """The file that is there once a process has said all that it had to say."""
    return folder / f"rank-{rank}.said"


def verdict(ended: Sequence[Ended], folder: Path) -> Verdict:
    """Judges processes, in the order in which they ended, by what they left in their folder of notes."""
    notes = read_notes(folder)
    code = _exit_code(ended, notes)
    if code == 0:
        return Verdict(0, None)
    zero = next(one for one in ended if one.rank == 0)
    silent = zero.signal is not None and not said_by(folder, 0).exists()
    killed = {one.rank: f"process {one.rank} was {killed_by(one)}" for one in ended if one.killed}
    words = [f"process {notes[0].rank}: {notes[0].message}"] if silent and notes and notes[0].rank not in killed else []
    words += [sentence + _log(folder, rank) for rank, sentence in killed.items()]
    words += [_unexplained(one) + _log(folder, one.rank) for one in _first_without_words(ended, notes, silent)]
    if forced := [one.rank for one in ended if one.forced]:
        words.append(_forced(forced) + _log(folder, forced[0]))
    if silent and not words:
        words = [f"stopped at once by {_name(zero.signal or 0)}; nothing is lost that was saved before"]
    return Verdict(code, "\n".join(words) or None, silent)


def _exit_code(ended: Sequence[Ended], notes: Sequence[Note]) -> int:
    """That of the one that failed first: its note tells which, and where there is none, its end."""
    failed = [one for one in ended if one.exit_code]
    failed = [one for one in failed if not one.in_order] or failed
    if not failed:
        return 0
    return next((note.exit_code for note in notes if note.exit_code > 0), failed[0].exit_code)


def _first_without_words(ended: Sequence[Ended], notes: Sequence[Note], silent: bool) -> list[Ended]:
    """The one that failed first, if it left no note, and process 0 has not told its own failure of the same kind."""
    failed = [one for one in ended if one.exit_code and not one.in_order]
    if not failed or failed[0].rank in {0, *(note.rank for note in notes)} or failed[0].forced:
        return []
    same = any(one.rank == 0 and one.exit_code == failed[0].exit_code for one in ended)
    return [] if same and not silent else failed[:1]


def killed_by(one: Ended) -> str:
    """What ended a process, as in "ended by SIGKILL"."""
    hint = _HINTS.get(one.signal or 0)
    return f"ended by {_name(one.signal or 0)}" + (f" ({hint})" if hint else "")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _unexplained(one: Ended) -> str:
    return f"process {one.rank} ended with exit code {one.exit_code}"


def _forced(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"process {ranks[0]} did not end by itself and was killed"
    *others, last = sorted(ranks)
    return f"processes {', '.join(map(str, others))} and {last} did not end by themselves and were killed"


def _log(folder: Path, rank: int) -> str:
    """The end of what a process has printed, to follow a sentence about it; nothing where there is none."""
    try:
        with open_plain(folder / f"rank-{rank}.where", _LONGEST_PATH) as file:
            path, name = Path(file.read().decode().strip()), True
    except (OSError, ValueError):
        path, name = log_of(folder, rank), False
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return ""
    shown = [_visible(line) for line in lines if line.strip()][-_LINES:]
    if not shown:
        return ""
    said = f"the log of process {rank}" + (f", {path}," if name else "")
    return "\n".join([f"; {said} ends:", *(f"    {line}" for line in shown)])


def _visible(line: str) -> str:
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in line)
