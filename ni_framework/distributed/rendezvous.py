"""Connects the ranks of a run: by the environment variables of `ni train --processes`, torchrun or the deepspeed launcher."""

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

from ni_framework.distributed.communicator import SINGLE_PROCESS, Communicator
from ni_framework.errors import RunError, UsageError
from ni_framework.recipe.schema import EngineConfig

REQUIRED_ENV = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Seconds after the timeout in which torch may report why it has found no other rank.
_RENDEZVOUS_GRACE = 5.0


def rank_and_world_size_from_env(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Returns the rank of this process and the world size; None if no launcher has started it.

    Raises `UsageError` if a variable is missing or not a valid number.
    """
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        return None
    if absent := [name for name in REQUIRED_ENV if not environment.get(name)]:
        raise UsageError(
            f"{absent[0]}: is not set, though {'RANK' if 'RANK' in environment else 'WORLD_SIZE'} is; start with "
            "ni train --processes, torchrun or deepspeed, which set them all"
        )
    rank, world_size, port = (_parse_env_number(environment, name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if rank >= world_size:
        raise UsageError(f"RANK: is {rank} with WORLD_SIZE {world_size}; ranks are numbered from 0 to WORLD_SIZE - 1")
    if not 0 < port < 2**16:
        raise UsageError(f"MASTER_PORT: is {port}; a port is a number from 1 to 65535")
    return rank, world_size


def _parse_env_number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(
            f"{name}: is {text[:80]!r}, which is not a number; the launcher sets it, do not set it yourself"
        )
    return int(text)


def init_process_group(engine_config: EngineConfig) -> Communicator:
    """Connects this process with the other ranks, and returns its communicator.

    The process group lasts as long as the process, because DeepSpeed uses it without asking again. Raises `UsageError` if
    several processes were started for the local engine, and `RunError` if the ranks do not find each other.
    """
    env_rank = rank_and_world_size_from_env()
    if engine_config.use == "local":
        if env_rank is not None and env_rank[1] > 1:
            raise UsageError(
                f"engine.use: local is for one process, and {env_rank[1]} were started; write engine.use=zero, or start one"
            )
        return SINGLE_PROCESS
    rank, world_size = env_rank or (0, 1)
    os.environ.setdefault("LOCAL_RANK", str(rank % max(torch.cuda.device_count(), 1)))
    _limit_threads(world_size)
    if not dist.is_initialized():
        _connect(rank, world_size, engine_config.timeout, is_single=env_rank is None)
        atexit.register(dist.destroy_process_group)
    return Communicator(rank, world_size)


def _limit_threads(world_size: int) -> None:
    """Splits the cores over the ranks of this machine, unless the user has set it: too many threads wait for each other."""
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world_size)
    if local_world_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // local_world_size))


def _connect(rank: int, world_size: int, timeout: float, is_single: bool) -> None:
    timeout_delta = timedelta(seconds=timeout)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store = dist.HashStore() if is_single else _rendezvous(rank, timeout_delta)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout_delta)
    except (RuntimeError, ValueError, OSError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).partition("\n")[0][:200]
        raise RunError(
            f"process {rank} of {world_size} on {socket.gethostname()} found no other process at {where} in {timeout:g} s "
            f"({reason}); "
            "check MASTER_ADDR and MASTER_PORT, that the port is free and reachable, and that all processes are started"
        ) from error


def _rendezvous(rank: int, timeout_delta: timedelta) -> Any:
    """Returns the store through which the ranks find each other; raises `TimeoutError`.

    It connects in another thread, because torch waits endlessly if a foreign program accepts the connection, and because
    this thread has to handle signals.
    """
    results: SimpleQueue[Any] = SimpleQueue()

    def connect() -> None:
        try:
            if rank:
                _wait_for_port(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout_delta.total_seconds())
            store, _, _ = next(rendezvous("env://", timeout=timeout_delta))
            store.set_timeout(timeout_delta)
            results.put(store)
        except Exception as error:
            results.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        result = results.get(timeout=timeout_delta.total_seconds() + _RENDEZVOUS_GRACE)
    except Empty:
        raise TimeoutError("the program that listens there does not answer") from None
    if isinstance(result, Exception):
        raise result
    return result


def _wait_for_port(address: str, port: int, seconds: float) -> None:
    """Waits until a program listens on a port; torch would wait too, but prints a stack on a timeout.

    Args:
        address: The host.
        port: The port.
        seconds: The timeout.

    Raises:
        OSError: No program listens there.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), max(deadline - time.monotonic(), 0.1)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
