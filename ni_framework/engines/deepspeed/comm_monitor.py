"""Workaround: DeepSpeed (0.19.8) neither times its communication nor limits how long it waits.

What DeepSpeed does: it sends through its own backend, and makes process groups with torch's default timeout of half an hour.
What goes wrong: the straggler detector does not see the time spent waiting there, and if one rank ends, the others wait for half
an hour. How this repairs it: `CommMonitor` takes the place of the backend; it times and counts every operation, and makes groups
with the timeout of the recipe.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from ni_framework.distributed.communicator import WaitTimer

COLLECTIVES = (
    "all_gather",
    "all_gather_coalesced",
    "all_gather_into_tensor",
    "all_reduce",
    "all_reduce_coalesced",
    "barrier",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
)


class CommMonitor:
    """Wraps DeepSpeed's communication backend: times every operation, and counts operations by name."""

    def __init__(self, backend: Any, wait_timer: WaitTimer, timeout: float) -> None:
        """Wraps `backend`; waiting is added to `wait_timer`, and new groups have a timeout of `timeout` seconds."""
        self.backend, self.wait_timer, self.timeout = backend, wait_timer, timeout
        self.counts = Counter[str]()

    def new_group(self, ranks: Any) -> Any:
        """Makes a process group with our timeout."""
        return dist.new_group(ranks, timeout=timedelta(seconds=self.timeout))

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.backend, name)
        if name not in COLLECTIVES:
            return operation

        def call_timed(*arguments: Any, **named: Any) -> Any:
            self.counts[name] += 1
            with self.wait_timer():
                handle = operation(*arguments, **named)
            return _TimedHandle(handle, self.wait_timer) if hasattr(handle, "wait") else handle

        return call_timed


class _TimedHandle:
    """Wraps the handle of an asynchronous operation, and times how long `wait` takes."""

    def __init__(self, handle: Any, wait_timer: WaitTimer) -> None:
        self.handle, self.wait_timer = handle, wait_timer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handle, name)

    def wait(self, *arguments: Any, **named: Any) -> Any:
        with self.wait_timer():
            return self.handle.wait(*arguments, **named)


def monitor_comm(deepspeed: Any, wait_timer: WaitTimer, timeout: float) -> CommMonitor:
    """Wraps DeepSpeed's backend in a monitor, or gives the existing monitor another timer and timeout.

    Args:
        deepspeed: The package, as `import_deepspeed` returns it.
        wait_timer: Adds up the seconds of waiting.
        timeout: Seconds until an operation of a new process group fails.

    Returns:
        The monitor.
    """
    comm = deepspeed.comm.comm
    if not isinstance(comm.cdb, CommMonitor):
        comm.cdb = CommMonitor(comm.cdb, wait_timer, timeout)
    comm.cdb.wait_timer, comm.cdb.timeout = wait_timer, timeout
    return comm.cdb
