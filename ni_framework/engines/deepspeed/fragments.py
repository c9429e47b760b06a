"""Finds the weights that this rank's optimizer updates, at every stage of ZeRO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from ni_framework.checkpoint.shards import TensorShard


class Fragment(NamedTuple):
    """Consecutive elements of a parameter, and their position in a tensor that the optimizer updates.

    The fragment has the `length` elements from `start` on of the parameter `name`, which has the shape `shape`. They are
    stored in `flat`, a parameter of the optimizer, from `offset` on.
    """

    name: str
    start: int
    shape: tuple[int, ...]
    flat: Tensor
    offset: int
    length: int

    def view_in(self, flat: Tensor) -> Tensor:
        """Returns a view of these elements in a tensor with the layout of the optimizer's parameter."""
        return flat.detach().view(-1)[self.offset : self.offset + self.length]

    def to_shard(self, flat: Tensor) -> TensorShard:
        """Returns the same elements as a shard, to be stored."""
        return TensorShard(self.view_in(flat), self.start, self.shape)


def find_fragments(engine: Any, stage: int, rank: int) -> list[Fragment]:
    """Returns the fragments of this rank; at stage 0 these are all trained parameters, unsharded.

    Args:
        engine: DeepSpeed's engine.
        stage: The stage of ZeRO, 0 to 3.
        rank: This rank.
    """
    if stage == 0:
        return list(_stage_0_fragments(engine.module))
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    find = _stage_3_fragments if stage == 3 else _stage_1_2_fragments
    return [fragment for fragment in find(engine.optimizer, names, rank) if fragment.length > 0]


def _stage_0_fragments(module: nn.Module) -> Iterator[Fragment]:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield Fragment(name, 0, tuple(parameter.shape), parameter, 0, parameter.numel())


def _stage_1_2_fragments(optimizer: Any, names: dict[int, str], rank: int) -> Iterator[Fragment]:
    """Stages 1 and 2: the concatenated parameters of a group are cut into one slice for each rank."""
    for group, flat in zip(optimizer.round_robin_bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True):
        for parameter in group:
            if (mapping := parameter._hp_mapping) is not None:
                param_address, flat_address = mapping.lp_fragment_address, mapping.hp_fragment_address
                shape = tuple(parameter.shape)
                yield Fragment(
                    names[id(parameter)], param_address.start, shape, flat, flat_address.start, param_address.numel
                )


def _stage_3_fragments(optimizer: Any, names: dict[int, str], rank: int) -> Iterator[Fragment]:
    """Stage 3: each parameter is cut into one shard for each rank, and the last shard is padded."""
    for group in optimizer.fp16_groups:
        for parameter in group:
            number, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = rank * length
            unpadded = min(length, parameter.ds_numel - start)
            flat = optimizer.fp32_partitioned_groups_flat[number]
            yield Fragment(names[id(parameter)], start, tuple(parameter.ds_shape), flat, int(offset), unpadded)
