"""Signals that ask a run to stop: it finishes its step, saves, and says so with its exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ni_framework.errors import NIError

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}


class Interrupted(NIError):
    """A run that was asked to stop and has saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Request:
    """Whether a stop has been asked for, and the exit code that answers it."""

    exit_code: int | None = None


@contextmanager
def stop_requests() -> Iterator[Request]:
    """Turns the first SIGINT or SIGTERM into a request; a second one ends the process at once, as it always did."""
    request = Request()

    def note(number: int, frame: FrameType | None) -> None:
        request.exit_code = EXIT_CODES[signal.Signals(number)]
        signal.signal(number, previous[signal.Signals(number)])

    previous = {}
    try:
        for number in EXIT_CODES:
            previous[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: signals are the caller's affair
        previous = {}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
