"""Signals that ask a run to stop: it finishes its step, saves, and says so with its exit code."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ni_framework.errors import NIError

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGHUP: 75}
_CALM = b"\nstopping: this step is finished and saved; once more stops at once\n"


class Interrupted(NIError):
    """A run that was asked to stop and has saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Request:
    """Whether a stop has been asked for, and the exit code that answers it."""

    exit_code: int | None = None

    def __bool__(self) -> bool:
        return self.exit_code is not None


@contextmanager
def stop_requests() -> Iterator[Request]:
    """Turns the first signal into a request; a second one does what it would have done before."""
    request = Request()

    def note(number: int, frame: FrameType | None) -> None:
        request.exit_code = EXIT_CODES[signal.Signals(number)]
        for known, handler in before.items():
            signal.signal(known, handler)
        os.write(2, _CALM)  # nothing else may be called in the middle of whatever was interrupted

    before: dict[signal.Signals, signal._HANDLER] = {}
    with handled(note, before):
        yield request


@contextmanager
def exits_at_once(say: Callable[[int], object]) -> Iterator[None]:
    """While there is nothing to save, or for a second signal: `say` is told the exit code, and the process ends with it."""

    def leave(number: int, frame: FrameType | None) -> None:
        code = EXIT_CODES[signal.Signals(number)]
        try:
            say(code)
        finally:
            os._exit(code)  # raising would pass through whatever is being imported, opened or written

    with handled(leave, {}):
        yield


@contextmanager
def handled(
    handler: Callable[[int, FrameType | None], None], before: dict[signal.Signals, signal._HANDLER]
) -> Iterator[None]:
    """Has signals handled that nobody has asked to be ignored, as `nohup` does."""
    try:
        for number in EXIT_CODES:
            if (old := signal.getsignal(number)) != signal.SIG_IGN:
                before[number] = old
                signal.signal(number, handler)
    except ValueError:  # not in the main thread: signals are the caller's affair
        before.clear()
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def ignore_all(_: int) -> None:
    """Leaves signals to the main process; for those that it started."""
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)
