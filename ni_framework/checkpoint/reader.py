"""Reads the tensors of a checkpoint, whole or in part, independent of how they were sharded when they were written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ni_framework.checkpoint.manifest import Manifest, check_file, shard_files
from ni_framework.checkpoint.shards import ShardedState, TensorShard
from ni_framework.errors import CheckpointError
from ni_framework.utils.prefixes import strip_prefix

_READ_ERRORS = (SafetensorError, ValueError, TypeError, KeyError, OverflowError, RuntimeError)


class _Extent(NamedTuple):
    """Where elements `start` to `stop` of a tensor are stored: under `key` in an open safetensors `file`.

    `is_unsharded`: this is the whole tensor, in its shape.
    """

    start: int
    stop: int
    file: Any
    key: str
    is_unsharded: bool


class TensorReader:
    """The tensors of one logical file of a checkpoint, which may be stored as several shards, by name.

    Only requested elements are read. Raises `CheckpointError` for a file that is not valid safetensors, or shards that do
    not cover their tensors.
    """

    def __init__(self, folder: Path, manifest: Manifest, name: str, verified: bool = False) -> None:
        """Opens the files.

        Args:
            folder: The checkpoint.
            manifest: Its manifest.
            name: The logical name of the file.
            verified: Whether the caller has compared the files with the manifest already.
        """
        self._path = folder / name
        self._shard_shapes = manifest.shard_shapes.get(name, {})
        self._shapes: dict[str, list[int]] = {}
        self._extents: dict[str, list[_Extent]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        for shard in shard_files(manifest.files, name):
            if not verified:
                check_file(folder, manifest, shard)
            with _wrap_read_errors(folder / shard):
                self._index_file(safe_open(str(folder / shard), framework="pt"))
        self._check_complete()

    def __iter__(self) -> Iterator[str]:
        return iter(self._extents)

    def __contains__(self, name: str) -> bool:
        return name in self._extents

    def shape(self, name: str) -> list[int]:
        """Returns the shape of the whole tensor."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """Returns the type of the tensor's elements."""
        return self._dtypes[name]

    def with_prefix(self, prefix: str) -> TensorReader:
        """Returns a reader of the tensors whose names start with `prefix/`, under the rest of their names."""
        reader = copy(self)
        for attribute in ("_extents", "_shapes", "_dtypes"):
            setattr(reader, attribute, strip_prefix(f"{prefix}/", getattr(self, attribute)))
        return reader

    def read(self, name: str) -> Tensor:
        """Returns a whole tensor."""
        first, *others = self._extents[name]
        if not others and first.is_unsharded:
            with _wrap_read_errors(self._path):
                return first.file.get_tensor(first.key)
        shape = self._shapes[name]
        return self.read_range(name, 0, math.prod(shape)).view(shape)

    def read_range(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements `start` to `stop` of the flattened tensor; [stop - start].

        Args:
            name: The tensor.
            start: The flat index of the first element.
            stop: The flat index after the last element.
        """
        chunks = []
        for extent in self._extents[name]:
            first, last = max(start, extent.start), min(stop, extent.stop)
            if first < last:
                with _wrap_read_errors(self._path):
                    chunks.append(_read_elements(extent, first - extent.start, last - extent.start))
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks) if chunks else torch.empty(0)

    def read_all(self) -> dict[str, Tensor]:
        """Returns every tensor, whole."""
        return {name: self.read(name) for name in self}

    def _index_file(self, file: Any) -> None:
        for key in file.keys():  # noqa: SIM118  safe_open is not a mapping
            name, at, number = key.rpartition("@")
            is_unsharded = not (at and name in self._shard_shapes)
            name, start = (key, 0) if is_unsharded else (name, int(number))
            if is_unsharded and name in self._extents:
                raise ValueError(f"{name} occurs twice")
            view = file.get_slice(key)
            shape = view.get_shape()
            self._shapes.setdefault(name, self._shard_shapes.get(name, shape))
            self._dtypes[name] = view[:0].dtype if shape else file.get_tensor(key).dtype
            extent = _Extent(start, start + math.prod(shape), file, key, is_unsharded)
            self._extents.setdefault(name, []).append(extent)

    def _check_complete(self) -> None:
        """Raises `CheckpointError` unless the shards of every tensor cover each of its elements exactly once."""
        for name, shape in self._shard_shapes.items():
            self._shapes.setdefault(name, shape)
            extents = self._extents.setdefault(name, [])
            extents.sort(key=lambda extent: extent.start)
            starts, stops = [extent.start for extent in extents], [extent.stop for extent in extents]
            if not extents or extents[0].is_unsharded or [*starts, math.prod(shape)] != [0, *stops]:
                raise CheckpointError(
                    f"{self._path}: the shards of {name} do not cover it exactly once; use another checkpoint"
                )


def _read_elements(extent: _Extent, first: int, last: int) -> Tensor:
    """Returns elements `first` to `last` of an extent; only the rows that contain them are read."""
    view = extent.file.get_slice(extent.key)
    shape = view.get_shape()
    if not shape:
        return extent.file.get_tensor(extent.key).view(1)
    row = math.prod(shape[1:])
    top = first // row
    rows_P = view[top : -(-last // row)].flatten()
    return rows_P[first - top * row : last - top * row]


@contextmanager
def _wrap_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except _READ_ERRORS as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}; use another checkpoint") from error


def to_safetensors(state: ShardedState) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Returns a rank's tensors by the keys that `TensorReader` expects, and the whole shapes of those that are sharded."""
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, value in state.items():
        if isinstance(value, TensorShard):
            tensors[f"{name}@{value.start}"] = value.values_P
            shapes[name] = list(value.shape)
        else:
            tensors[name] = value
    return tensors, shapes
