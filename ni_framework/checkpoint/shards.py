"""Tensors that are sharded over ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class TensorShard(NamedTuple):
    """A contiguous range of elements of a tensor: `values_P`, from flat index `start`; `shape` is the whole tensor's."""

    values_P: Tensor
    start: int
    shape: tuple[int, ...]


ShardedState = Mapping[str, Tensor | TensorShard]
"""Tensors by name, as one rank has them: whole tensors, or the rank's own shards of them."""


def local_tensor(value: Tensor | TensorShard) -> Tensor:
    """Returns the elements that this rank has in memory."""
    return value.values_P if isinstance(value, TensorShard) else value


def intersect(shard: TensorShard, first: int, last: int) -> TensorShard:
    """Returns the part of a shard that is between the flat indices `first` and `last` (excluded) of the whole tensor."""
    start = max(first, shard.start)
    values_P = shard.values_P[start - shard.start : max(last - shard.start, 0)]
    return TensorShard(values_P, start, shard.shape)
