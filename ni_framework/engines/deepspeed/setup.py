"""Imports and initialises DeepSpeed, with its log in a file or on stderr, and selects this rank's device."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any, TextIO

import torch

from ni_framework.distributed.communicator import Communicator
from ni_framework.errors import RunError


def import_deepspeed(log: TextIO) -> Any:
    """Imports DeepSpeed, initialises its communication, and returns the package. Nothing is compiled.

    What DeepSpeed prints and logs goes to `log`, since stdout is for results. Raises `RunError`, with the command that
    installs it, if it cannot be imported.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # Without this variable DeepSpeed starts a program several times a step, to find out the number of CPUs.
        os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # DeepSpeed's log handler keeps the stdout that it finds while it is imported.
    stdout, sys.stdout = sys.stdout, log
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import deepspeed
    except Exception as error:
        # A broken installation, or one for another version of torch, can fail with any exception.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise RunError(
            f"engine.use: zero needs deepspeed, which cannot be imported ({reason}); pip install --upgrade deepspeed"
        ) from error
    finally:
        sys.stdout = stdout
    # DeepSpeed calls functions of torch by deprecated names.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.", FutureWarning)
    # Otherwise DeepSpeed compiles its communication through shared memory, which takes a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    redirect_deepspeed_log(log)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return deepspeed


def redirect_deepspeed_log(log: TextIO) -> None:
    """Makes DeepSpeed log to `log`: everything to a file, only warnings to stderr."""
    level = logging.WARNING if log is sys.stderr else logging.INFO
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(level)
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setLevel(level)
            # `setStream` would flush the previous stream, which may be closed.
            handler.stream = log


def local_device(comm: Communicator) -> torch.device:
    """Returns the GPU of this rank, or the CPU if there is no GPU; raises `RunError` if there are fewer GPUs than ranks."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, num_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local_rank >= num_gpus:
        raise RunError(
            f"process {comm.rank} is number {local_rank} on this machine, counted from 0, and there are {num_gpus} GPUs; "
            "start as many processes here as there are GPUs"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
