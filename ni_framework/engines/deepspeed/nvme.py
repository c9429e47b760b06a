"""The disk on which `offload: nvme` keeps weights and what the optimizer remembers: its folder, its buffers, who reads it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from ni_framework.engines.deepspeed.aio_alignment import align
from ni_framework.errors import RecipeError, RunError
from ni_framework.model.compose import build_model
from ni_framework.recipe import Recipe

GROUP = 50_000_000  # elements that a step has in memory at a time; DeepSpeed's own billion would be all there is
_LEAST = 2**18  # elements; DeepSpeed leaves less than a MiB in memory
_OF_ADAM = 4  # buffers: weights, gradients, two moments


def folder_for(recipe: Recipe) -> tempfile.TemporaryDirectory[str]:
    """A folder of this process's own in `engine.nvme`, so that runs on one disk do not write over one another's files.

    Raises `RecipeError` where there can be none.
    """
    assert recipe.engine.nvme is not None
    try:
        os.makedirs(recipe.engine.nvme, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix="ni-", dir=recipe.engine.nvme, ignore_cleanup_errors=True)
    except OSError as error:
        message = f"{recipe.engine.nvme} is no folder that can be written to ({error.strerror})"
        hint = "use a folder on a disk that every machine has"
        raise RecipeError([recipe.problem("engine.nvme", message, hint)]) from error


def check_async_io() -> None:
    """Has DeepSpeed compile what reads and writes a disk, for minutes the first time; raises `RunError` where it cannot."""
    from deepspeed.ops.op_builder import AsyncIOBuilder  # pyright: ignore[reportAttributeAccessIssue]

    try:
        AsyncIOBuilder().load(verbose=False)
    except (RuntimeError, ImportError, OSError, subprocess.SubprocessError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(
            f"engine.offload: DeepSpeed cannot compile what reads and writes a disk, its async_io ({reason}); "
            "install libaio with its headers (libaio-dev), ninja and a C++ compiler, or use `offload: cpu`"
        ) from error
    align(AsyncIOBuilder)


def size_buffers(zero: dict[str, Any], recipe: Recipe, size: int) -> None:
    """Sets those of DeepSpeed's sizes that the recipe leaves open to what `size` processes need; what has too few fails.

    The optimizer updates a group at a time, and has the next one read or the last one written beside it where it is told to.
    Weights come from the disk as scripts do, whole.
    """
    optimizer, weights = zero["offload_optimizer"], zero["offload_param"]
    group = zero.setdefault("sub_group_size", GROUP)
    groups = 1 + bool(optimizer.get("pipeline_read")) + bool(optimizer.get("pipeline_write"))
    optimizer.setdefault("buffer_count", _OF_ADAM * groups)
    numbers, parts = Counter[str](), [1]
    for name, parameter in build_model(recipe, "meta").named_parameters():
        parts.append(-(-parameter.numel() // size))
        numbers[name.split(".")[1] if name.startswith("scripts.") else ""] += parts[-1] >= _LEAST
    outside = numbers.pop("", 0)
    weights.setdefault("buffer_count", max(outside + max(numbers.values(), default=0), 1))
    # The first values of a group pass through one buffer with `fast_init`.
    largest = min(group + max(parts), sum(parts)) if optimizer.get("fast_init") else max(parts)
    weights.setdefault("buffer_size", largest)


def kept(values_P: Tensor, folder: str) -> Tensor:
    """A copy in a file without a name: its pages leave memory when that is short. Raises `OSError` for a disk that is full."""
    if not values_P.numel():
        return values_P.clone()
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, values_P.nbytes)  # or a full disk would be a SIGBUS
        copy_P = torch.from_file(file.name, shared=True, size=values_P.numel(), dtype=values_P.dtype)
    return copy_P.copy_(values_P)


def available(parameter: Any) -> bool:
    """Whether this process's part of a divided parameter is in memory; one that is just being read is awaited."""
    from deepspeed.runtime.swap_tensor.partitioned_param_swapper import PartitionedParamStatus as Status

    if parameter.ds_tensor.status == Status.INFLIGHT:
        parameter.nvme_swapper.synchronize_reads()
    return parameter.ds_tensor.status == Status.AVAILABLE
