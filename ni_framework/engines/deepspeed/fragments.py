"""Where the weights that this process's optimizer updates lie, whatever DeepSpeed's stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from ni_framework.checkpoint.shards import Piece


class Fragment(NamedTuple):
    """A run of elements of a parameter, and where they lie in a tensor that the optimizer updates."""

    name: str
    start: int
    shape: tuple[int, ...]  # of the parameter
    flat: Tensor  # the optimizer's own parameter
    offset: int  # in it
    length: int

    def of(self, flat: Tensor) -> Tensor:
        """These elements in a tensor that is laid out as the optimizer's parameter is; a view."""
        return flat.detach().view(-1)[self.offset : self.offset + self.length]

    def piece(self, flat: Tensor) -> Piece:
        """The same, to be stored."""
        return Piece(self.of(flat), self.start, self.shape)


def fragments_of(engine: Any, stage: int, rank: int) -> list[Fragment]:
    """The fragments of this process; at stage 0 all parameters, whole."""
    if stage == 0:
        return list(_whole(engine.module))
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    find = _partitions if stage == 3 else _slices
    return [fragment for fragment in find(engine.optimizer, names, rank) if fragment.length > 0]


def _whole(module: nn.Module) -> Iterator[Fragment]:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield Fragment(name, 0, tuple(parameter.shape), parameter, 0, parameter.numel())


def _slices(optimizer: Any, names: dict[int, str], rank: int) -> Iterator[Fragment]:
    """Stages 1 and 2: groups of parameters, one after the other, are cut into as many slices as there are processes."""
    for group, flat in zip(optimizer.round_robin_bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True):
        for parameter in group:
            if (mapping := parameter._hp_mapping) is not None:
                inside, outside = mapping.lp_fragment_address, mapping.hp_fragment_address
                shape = tuple(parameter.shape)
                yield Fragment(names[id(parameter)], inside.start, shape, flat, outside.start, inside.numel)


def _partitions(optimizer: Any, names: dict[int, str], rank: int) -> Iterator[Fragment]:
    """Stage 3: each parameter is cut into as many pieces as there are processes, the last of them padded."""
    for group in optimizer.fp16_groups:
        for parameter in group:
            number, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = rank * length
            real = min(length, parameter.ds_numel - start)
            flat = optimizer.fp32_partitioned_groups_flat[number]
            yield Fragment(names[id(parameter)], start, tuple(parameter.ds_shape), flat, int(offset), real)
