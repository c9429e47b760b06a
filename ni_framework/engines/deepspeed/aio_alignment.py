"""Has DeepSpeed read and write a disk right wherever in memory it does so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_BLOCK = 512  # bytes


class Aligned:
    """Stands before what DeepSpeed reads and writes with (0.19.8): gradients, which lie anywhere, pass through other memory.

    Into memory that begins within a block the system reads nothing, and DeepSpeed does not look whether it has.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self._passing: list[tuple[Tensor, Tensor]] = []  # where it goes, where it is read to

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handle, name)

    def async_pread(self, buffer: Tensor, path: str, offset: int) -> int:
        if buffer.data_ptr() % _BLOCK:
            # Memory that is not page-locked, for which the handle has blocks of its own.
            self._passing.append((buffer, torch.empty(buffer.shape, dtype=buffer.dtype)))
            buffer = self._passing[-1][1]
        return self.handle.async_pread(buffer, path, offset)

    def async_pwrite(self, buffer: Tensor, path: str, offset: int) -> int:
        if buffer.data_ptr() % _BLOCK:
            buffer = torch.empty(buffer.shape, dtype=buffer.dtype).copy_(buffer)
        return self.handle.async_pwrite(buffer, path, offset)

    def wait(self) -> int:
        done = self.handle.wait()
        for buffer, read in self._passing:
            buffer.copy_(read)
        self._passing.clear()
        return done


def align(builder: Any) -> None:
    """Puts `Aligned` before all handles that are made from now on."""
    load = builder.load
    if getattr(load, "aligned", False):
        return

    def aligned(self: Any, verbose: bool = True) -> Any:
        made = load(self, verbose).aio_handle
        return SimpleNamespace(aio_handle=lambda *arguments, **named: Aligned(made(*arguments, **named)))

    aligned.aligned = True  # pyright: ignore[reportFunctionMemberAccess]
    builder.load = aligned
