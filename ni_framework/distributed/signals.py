"""Signals that stop a run gracefully: it finishes its step, saves, and exits with a code of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ni_framework.errors import NIError

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGHUP: 75}
_STOP_MESSAGE = b"\nstopping after this step, which will be saved; a second signal stops immediately\n"


class RunInterrupted(NIError):
    """The run was stopped by a signal and has saved a checkpoint."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """Whether a signal has requested a stop, and the exit code for it."""

    exit_code: int | None = None

    def __bool__(self) -> bool:
        return self.exit_code is not None


@contextmanager
def graceful_shutdown() -> Iterator[StopRequest]:
    """Turns the first stop signal into a request; a second one is handled as it was before the block."""
    request = StopRequest()

    def on_signal(number: int, frame: FrameType | None) -> None:
        request.exit_code = EXIT_CODES[signal.Signals(number)]
        for known, handler in previous_handlers.items():
            signal.signal(known, handler)
        # `print` could be interrupted in the middle of another `print`; a system call is safe.
        os.write(2, _STOP_MESSAGE)

    previous_handlers: dict[signal.Signals, signal._HANDLER] = {}
    with install_handlers(on_signal, previous_handlers):
        yield request


@contextmanager
def exit_immediately_on_signal(report: Callable[[int], object]) -> Iterator[None]:
    """Exits on a stop signal, after calling `report` with the exit code: while there is nothing to save, or a second time."""

    def exit_now(number: int, frame: FrameType | None) -> None:
        code = EXIT_CODES[signal.Signals(number)]
        try:
            report(code)
        finally:
            # An exception would interrupt whatever is being imported, opened or written.
            os._exit(code)

    with install_handlers(exit_now, {}):
        yield


@contextmanager
def install_handlers(
    handler: Callable[[int, FrameType | None], None], previous_handlers: dict[signal.Signals, signal._HANDLER]
) -> Iterator[None]:
    """Installs a handler for the stop signals, except for those that are ignored, as `nohup` requests.

    Args:
        handler: The handler.
        previous_handlers: Receives the handlers from before, which are restored after the block.
    """
    try:
        for number in EXIT_CODES:
            if (old := signal.getsignal(number)) != signal.SIG_IGN:
                previous_handlers[number] = old
                signal.signal(number, handler)
    except ValueError:
        # Handlers can be installed in the main thread only; in another one, signals are left to the caller.
        previous_handlers.clear()
    try:
        yield
    finally:
        for number, old in previous_handlers.items():
            signal.signal(number, old)


def ignore_stop_signals(_: int) -> None:
    """Ignores stop signals in a process that the main process controls, such as a data worker."""
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)
