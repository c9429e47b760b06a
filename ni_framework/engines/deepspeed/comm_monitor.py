"""What DeepSpeed sends, counted, how long it waits, and that it does not wait for ever."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from ni_framework.distributed.communicator import Waiting

SENT = (
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


class Watched:
    """Stands before DeepSpeed's backend for messages: times every operation, and counts them by name."""

    def __init__(self, backend: Any, waiting: Waiting, timeout: float) -> None:
        self.backend, self.waiting, self.counts = backend, waiting, Counter[str]()
        self.timeout = timeout

    def new_group(self, ranks: Any) -> Any:
        """A group that gives up when ours does: torch lets those of DeepSpeed wait for half an hour otherwise."""
        return dist.new_group(ranks, timeout=timedelta(seconds=self.timeout))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.backend, name)
        if name not in SENT:
            return found

        def send(*arguments: Any, **named: Any) -> Any:
            self.counts[name] += 1
            with self.waiting():
                handle = found(*arguments, **named)
            return _Handle(handle, self.waiting) if hasattr(handle, "wait") else handle

        return send


class _Handle:
    """Stands before what an operation that goes on has left to wait for."""

    def __init__(self, handle: Any, waiting: Waiting) -> None:
        self.handle, self.waiting = handle, waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handle, name)

    def wait(self, *arguments: Any, **named: Any) -> Any:
        with self.waiting():
            return self.handle.wait(*arguments, **named)


def watch(deepspeed: Any, waiting: Waiting, timeout: float) -> Watched:
    """Puts a watch before DeepSpeed's backend, or gives the one that is there another team's waiting."""
    comm = deepspeed.comm.comm
    if not isinstance(comm.cdb, Watched):
        comm.cdb = Watched(comm.cdb, waiting, timeout)
    comm.cdb.waiting, comm.cdb.timeout = waiting, timeout
    return comm.cdb
