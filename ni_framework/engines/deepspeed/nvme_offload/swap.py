"""Workaround: DeepSpeed (0.19.8) has no public way to reach weights and optimizer state that are on a disk.

What DeepSpeed does: with `offload: nvme` it reads a group of weights and their optimizer state only within its step, and a
parameter only for its forward and backward passes. What goes wrong: checkpoints, EMA and frozen weights are read and changed
between steps. How this repairs it: two context managers call DeepSpeed's own swapping functions for a group or a parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ni_framework.engines.deepspeed.nvme_offload.folder import is_in_memory


@contextmanager
def group_in_memory(optimizer: Any, number: int, write_back: bool) -> Iterator[None]:
    """Holds a group of weights with its optimizer state in memory, at stage 3.

    Args:
        optimizer: DeepSpeed's optimizer.
        number: The number of the group.
        write_back: Whether the group is written to the disk afterwards; it is not after an error.
    """
    if not optimizer._swappable_optimizer_subgroup(number):
        yield
        return
    optimizer._optimizer_states_and_gradient_swap_in(number)
    try:
        yield
    except BaseException:
        optimizer._release_swap_buffers(number)
        raise
    if write_back:
        optimizer._optimizer_states_and_gradient_swap_out(number)
    else:
        optimizer._release_swap_buffers(number)


@contextmanager
def shard_in_memory(parameter: Any, write_back: bool) -> Iterator[Tensor]:
    """Yields this rank's shard of a parameter at stage 3, flat; if `write_back`, it is written to the disk afterwards."""
    if is_in_memory(parameter):
        yield parameter.ds_tensor.detach().view(-1)
        return
    swapper = parameter.nvme_swapper
    swapper.swap_in([parameter], async_op=False)
    try:
        yield parameter.ds_tensor.detach().view(-1)
    except BaseException:
        swapper.remove_partition_and_release_buffers([parameter])
        raise
    if write_back:
        swapper.swap_out_and_release([parameter])
        swapper.synchronize_writes()
    else:
        swapper.remove_partition_and_release_buffers([parameter])
