"""The tensors in a checkpoint: read whole or in part, whichever processes wrote them and in which pieces."""

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

from ni_framework.checkpoint.manifest import Manifest, check_file, shards_of
from ni_framework.checkpoint.shards import Piece, State
from ni_framework.errors import CheckpointError

_FAULTS = (SafetensorError, ValueError, TypeError, KeyError, OverflowError, RuntimeError)


class _Lying(NamedTuple):
    """Where elements `start` to `stop` of a tensor lie."""

    start: int
    stop: int
    file: Any  # an open safetensors file
    key: str
    whole: bool  # whether they lie there in the tensor's shape


class Stored:
    """The tensors of one file of a checkpoint, or of the shards that stand for it, by name.

    Only what is asked for is read. Raises `CheckpointError` for what cannot be read as safetensors, or has pieces that do
    not make up their tensors.
    """

    def __init__(self, folder: Path, manifest: Manifest, name: str, checked: bool = False) -> None:
        self._where = folder / name
        self._pieces = manifest.pieces.get(name, {})
        self._shapes: dict[str, list[int]] = {}
        self._lying: dict[str, list[_Lying]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        for shard in shards_of(manifest.files, name):
            if not checked:
                check_file(folder, manifest, shard)
            with _told(folder / shard):
                self._index(safe_open(str(folder / shard), framework="pt"))
        self._complete()

    def __iter__(self) -> Iterator[str]:
        return iter(self._lying)

    def __contains__(self, name: str) -> bool:
        return name in self._lying

    def shape(self, name: str) -> list[int]:
        """The shape of the whole tensor."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """The type of its elements."""
        return self._dtypes[name]

    def under(self, prefix: str) -> Stored:
        """The tensors whose names lie under a name, by the rest of theirs."""
        part = copy(self)
        for of in ("_lying", "_shapes", "_dtypes"):
            named = getattr(self, of).items()
            below = {n.removeprefix(f"{prefix}/"): value for n, value in named if n.startswith(f"{prefix}/")}
            setattr(part, of, below)
        return part

    def read(self, name: str) -> Tensor:
        """The whole tensor."""
        first, *others = self._lying[name]
        if not others and first.whole:
            with _told(self._where):
                return first.file.get_tensor(first.key)
        shape = self._shapes[name]
        return self.part(name, 0, math.prod(shape)).view(shape)

    def part(self, name: str, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop`, in the order in which they lie in the tensor."""
        parts = []
        for lying in self._lying[name]:
            first, last = max(start, lying.start), min(stop, lying.stop)
            if first < last:
                with _told(self._where):
                    parts.append(_elements(lying, first - lying.start, last - lying.start))
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0)

    def all(self) -> dict[str, Tensor]:
        """Every tensor, whole."""
        return {name: self.read(name) for name in self}

    def _index(self, file: Any) -> None:
        for key in file.keys():  # noqa: SIM118  it is no mapping
            name, at, number = key.rpartition("@")
            whole = not (at and name in self._pieces)
            name, start = (key, 0) if whole else (name, int(number))
            if whole and name in self._lying:
                raise ValueError(f"{name} is there twice")
            view = file.get_slice(key)
            shape = view.get_shape()
            self._shapes.setdefault(name, self._pieces.get(name, shape))
            self._dtypes[name] = view[:0].dtype if shape else file.get_tensor(key).dtype
            lying = _Lying(start, start + math.prod(shape), file, key, whole)
            self._lying.setdefault(name, []).append(lying)

    def _complete(self) -> None:
        """Every tensor that lies in pieces has each of its elements once."""
        for name, shape in self._pieces.items():
            self._shapes.setdefault(name, shape)
            pieces = self._lying.setdefault(name, [])
            pieces.sort(key=lambda lying: lying.start)
            starts, stops = [lying.start for lying in pieces], [lying.stop for lying in pieces]
            if not pieces or pieces[0].whole or [*starts, math.prod(shape)] != [0, *stops]:
                raise CheckpointError(f"{self._where}: the pieces of {name} do not make it up; use another checkpoint")


def _elements(lying: _Lying, first: int, last: int) -> Tensor:
    """Elements of a tensor in a file, of which no more rows than needed are read."""
    view = lying.file.get_slice(lying.key)
    shape = view.get_shape()
    if not shape:
        return lying.file.get_tensor(lying.key).view(1)
    row = math.prod(shape[1:])
    top = first // row
    rows_P = view[top : -(-last // row)].flatten()
    return rows_P[first - top * row : last - top * row]


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except _FAULTS as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}; use another checkpoint") from error


def keyed(state: State) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """What a process writes of a state: tensors by the keys that `Stored` reads, and the shapes of those in pieces."""
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, value in state.items():
        if isinstance(value, Piece):
            tensors[f"{name}@{value.start}"] = value.part_P
            shapes[name] = list(value.shape)
        else:
            tensors[name] = value
    return tensors, shapes
