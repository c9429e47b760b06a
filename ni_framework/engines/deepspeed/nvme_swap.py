"""What lies on a disk, while it is needed: a group of weights with what the optimizer remembers of them, or a frozen weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ni_framework.engines.deepspeed.nvme import available


@contextmanager
def group_in_memory(optimizer: Any, number: int, changes: bool) -> Iterator[None]:
    """Has a group of stage 3 in memory, wherever it lies; what `changes` it is written back, unless it fails."""
    if not optimizer._swappable_optimizer_subgroup(number):
        yield
        return
    optimizer._optimizer_states_and_gradient_swap_in(number)
    try:
        yield
    except BaseException:
        optimizer._release_swap_buffers(number)
        raise
    if changes:
        optimizer._optimizer_states_and_gradient_swap_out(number)
    else:
        optimizer._release_swap_buffers(number)


@contextmanager
def part_in_memory(parameter: Any, changes: bool) -> Iterator[Tensor]:
    """This process's part of a parameter that stage 3 has divided, flat; what `changes` it is written back."""
    if available(parameter):
        yield parameter.ds_tensor.detach().view(-1)
        return
    swapper = parameter.nvme_swapper
    swapper.swap_in([parameter], async_op=False)
    try:
        yield parameter.ds_tensor.detach().view(-1)
    except BaseException:
        swapper.remove_partition_and_release_buffers([parameter])
        raise
    if changes:
        swapper.swap_out_and_release([parameter])
        swapper.synchronize_writes()
    else:
        swapper.remove_partition_and_release_buffers([parameter])
