"""Tensors that several processes hold in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Piece(NamedTuple):
    """Some elements of a tensor, in the order in which they lie in it."""

    part_P: Tensor
    start: int  # the place of the first of them
    shape: tuple[int, ...]  # of the whole tensor


State = Mapping[str, Tensor | Piece]
"""Tensors by name, as one process holds them: whole, or the pieces that are its own."""


def held(value: Tensor | Piece) -> Tensor:
    """The tensor in memory."""
    return value.part_P if isinstance(value, Piece) else value


def cut(piece: Piece, first: int, last: int) -> Piece:
    """The elements of a piece that lie from `first` to `last` in the whole tensor."""
    start = max(first, piece.start)
    part_P = piece.part_P[start - piece.start : max(last - piece.start, 0)]
    return Piece(part_P, start, piece.shape)
