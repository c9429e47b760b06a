"""How a process finds the others: `ni train --processes`, torchrun and the deepspeed launcher tell it by its environment."""

from __future__ import annotations

import atexit
import os
import socket
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ni_framework.distributed.communicator import ALONE, Team
from ni_framework.errors import RunError, UsageError
from ni_framework.recipe.schema import Engine

TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LATE = 5.0  # seconds after its own that torch may tell why it has found nobody


def told(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """This process's rank and the number of processes; None where no launcher has started it.

    Raises `UsageError` naming what is missing or no number.
    """
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        return None
    if absent := [name for name in TOLD if not environment.get(name)]:
        raise UsageError(
            f"{absent[0]}: is not set, though {'RANK' if 'RANK' in environment else 'WORLD_SIZE'} is; start with "
            "ni train --processes, torchrun or deepspeed, which set them all"
        )
    rank, size, port = (_number(environment, name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if rank >= size:
        raise UsageError(f"RANK: is {rank} of WORLD_SIZE {size}; the ranks are the numbers below the size, from 0 on")
    if not 0 < port < 2**16:
        raise UsageError(f"MASTER_PORT: is {port}; a port is a number from 1 to 65535")
    return rank, size


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"{name}: is {text[:80]!r} and no number; the launcher sets it, so nobody else should")
    return int(text)


def join(engine: Engine) -> Team:
    """The team that this process trains in; its process group lasts as long as the process: DeepSpeed never asks again.

    Raises `UsageError` where several processes are to do what one does, and `RunError` where they do not find each other.
    """
    place = told()
    if engine.use == "local":
        if place is not None and place[1] > 1:
            raise UsageError(
                f"engine.use: local is for one process, and {place[1]} were started; write engine.use=zero, or start one"
            )
        return ALONE
    rank, size = place or (0, 1)
    os.environ.setdefault("LOCAL_RANK", str(rank % max(torch.cuda.device_count(), 1)))
    _share_cores(size)
    if not dist.is_initialized():
        _begin(rank, size, engine.timeout, alone=place is None)
        atexit.register(dist.destroy_process_group)
    return Team(rank, size)


def _share_cores(size: int) -> None:
    """Divides the cores among the processes of this machine, unless their number was chosen: too many threads only wait."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or size)
    if beside > 1 and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // beside))


def _begin(rank: int, size: int, timeout: float, alone: bool) -> None:
    waits = timedelta(seconds=timeout)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store = dist.HashStore() if alone else _meet(rank, waits)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=waits)
    except (RuntimeError, ValueError, OSError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).partition("\n")[0][:200]
        raise RunError(
            f"process {rank} of {size} on {socket.gethostname()} found no others at {where} in {timeout:g} s ({reason}); "
            "check MASTER_ADDR and MASTER_PORT, that the port is free and reachable, and that all processes are started"
        ) from error


def _meet(rank: int, waits: timedelta) -> Any:
    """The store in which the processes write where they are.

    Beside this thread, because torch waits without end for who takes up the connection and is not one of them; and so that
    signals are heard. Raises `TimeoutError`.
    """
    answers: SimpleQueue[Any] = SimpleQueue()

    def meet() -> None:
        try:
            if rank:
                _reach(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), waits.total_seconds())
            store, _, _ = next(rendezvous("env://", timeout=waits))
            store.set_timeout(waits)
            answers.put(store)
        except Exception as error:
            answers.put(error)

    threading.Thread(target=meet, daemon=True).start()
    try:
        answer = answers.get(timeout=waits.total_seconds() + _LATE)
    except Empty:
        raise TimeoutError("who is there does not answer") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _reach(address: str, port: int, seconds: float) -> None:
    """Waits until somebody listens there: torch, which would do so too, prints a stack where nobody does."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), max(end - time.monotonic(), 0.1)).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
