"""The disk on which `offload: nvme` keeps weights and optimizer state: its folder, its buffers, and DeepSpeed's async_io."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from ni_framework.engines.deepspeed.nvme_offload.aio_alignment import patch_aio_builder
from ni_framework.errors import RecipeError, RunError
from ni_framework.model.compose import build_model
from ni_framework.recipe import Recipe

# How many elements a step has in memory at a time; DeepSpeed's default of a billion could be the whole model.
SUB_GROUP_SIZE = 50_000_000
# DeepSpeed keeps smaller shards, below a MiB, in memory.
_MIN_SWAPPED_ELEMENTS = 2**18
# Buffers of an AdamW step: weights, gradients and two moments.
_ADAM_BUFFERS = 4


def create_swap_dir(recipe: Recipe) -> tempfile.TemporaryDirectory[str]:
    """Makes a folder for this rank in `engine.nvme_dir`, so that runs on one disk do not overwrite each other's files.

    Raises `RecipeError` if it cannot be made.
    """
    assert recipe.engine.nvme_dir is not None
    try:
        os.makedirs(recipe.engine.nvme_dir, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix="ni-", dir=recipe.engine.nvme_dir, ignore_cleanup_errors=True)
    except OSError as error:
        message = f"{recipe.engine.nvme_dir} is not a writable folder ({error.strerror})"
        hint = "use a folder on a disk that every machine has"
        raise RecipeError([recipe.problem_at("engine.nvme_dir", message, hint)]) from error


def prepare_async_io() -> None:
    """Makes DeepSpeed compile its async_io, which takes minutes the first time; raises `RunError` if that fails."""
    from deepspeed.ops.op_builder import AsyncIOBuilder  # pyright: ignore[reportAttributeAccessIssue]

    try:
        AsyncIOBuilder().load(verbose=False)
    except (RuntimeError, ImportError, OSError, subprocess.SubprocessError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(
            f"engine.offload: DeepSpeed cannot compile async_io, with which it reads and writes a disk ({reason}); "
            "install libaio with its headers (libaio-dev), ninja and a C++ compiler, or use `offload: cpu`"
        ) from error
    patch_aio_builder(AsyncIOBuilder)


def set_buffer_sizes(zero_config: dict[str, Any], recipe: Recipe, world_size: int) -> None:
    """Sets the buffer sizes that the recipe does not set to what the model needs; with fewer buffers DeepSpeed fails.

    The optimizer updates one group at a time; with `pipeline_read` and `pipeline_write` the next group is read and the previous
    one written at the same time. The weights of a script are read together.

    Args:
        zero_config: DeepSpeed's section `zero_optimization`, which is changed in place.
        recipe: The recipe of the model.
        world_size: The number of ranks that the weights are sharded over.
    """
    optimizer, weights = zero_config["offload_optimizer"], zero_config["offload_param"]
    group_size = zero_config.setdefault("sub_group_size", SUB_GROUP_SIZE)
    num_groups = 1 + bool(optimizer.get("pipeline_read")) + bool(optimizer.get("pipeline_write"))
    optimizer.setdefault("buffer_count", _ADAM_BUFFERS * num_groups)
    # Shards on the disk, by the number of their script, or "" outside of scripts.
    num_swapped, shard_sizes = Counter[str](), [1]
    for name, parameter in build_model(recipe, "meta").named_parameters():
        shard_size = -(-parameter.numel() // world_size)
        shard_sizes.append(shard_size)
        num_swapped[name.split(".")[1] if name.startswith("scripts.") else ""] += shard_size >= _MIN_SWAPPED_ELEMENTS
    num_outside = num_swapped.pop("", 0)
    weights.setdefault("buffer_count", max(num_outside + max(num_swapped.values(), default=0), 1))
    buffer_size = max(shard_sizes)
    if optimizer.get("fast_init"):
        # The initial values of a whole group pass through one buffer.
        buffer_size = min(group_size + max(shard_sizes), sum(shard_sizes))
    weights.setdefault("buffer_size", buffer_size)


def copy_to_mmap(values_P: Tensor, directory: str) -> Tensor:
    """Returns a copy in an unnamed file in `directory`: the system can write its pages to the disk when memory is short.

    Raises `OSError` if the disk is full.
    """
    if not values_P.numel():
        return values_P.clone()
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        # Without this call a full disk would end the process with SIGBUS.
        os.posix_fallocate(file.fileno(), 0, values_P.nbytes)
        copy_P = torch.from_file(file.name, shared=True, size=values_P.numel(), dtype=values_P.dtype)
    return copy_P.copy_(values_P)


def is_in_memory(parameter: Any) -> bool:
    """Returns whether this rank's shard of a parameter is in memory; waits for it if it is being read."""
    from deepspeed.runtime.swap_tensor.partitioned_param_swapper import PartitionedParamStatus as Status

    if parameter.ds_tensor.status == Status.INFLIGHT:
        parameter.nvme_swapper.synchronize_reads()
    return parameter.ds_tensor.status == Status.AVAILABLE
