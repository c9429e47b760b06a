"""Workaround: DeepSpeed (0.19.8) cannot read a file into memory that is not aligned.

What DeepSpeed does: for `offload: nvme` it reads and writes files directly, and does not check whether a read has succeeded.
What goes wrong: the system reads nothing into memory that does not start at a multiple of 512 bytes, and gradients can start
anywhere, so a step silently uses old values. How this repairs it: `AlignedAio` takes the place of the file handle, and passes
such tensors through a buffer.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_BLOCK_BYTES = 512


class AlignedAio:
    """Wraps DeepSpeed's handle for asynchronous reads and writes, so that tensors may start at any address."""

    def __init__(self, handle: Any) -> None:
        """Wraps `handle`, an `aio_handle` of DeepSpeed's extension `async_io`."""
        self.handle = handle
        # Pairs of the tensor that was requested and the buffer that is read into.
        self._pending_reads: list[tuple[Tensor, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handle, name)

    def async_pread(self, buffer: Tensor, path: str, offset: int) -> int:
        if buffer.data_ptr() % _BLOCK_BYTES:
            # The new tensor is not page-locked; for such memory the handle itself uses aligned blocks.
            self._pending_reads.append((buffer, torch.empty(buffer.shape, dtype=buffer.dtype)))
            buffer = self._pending_reads[-1][1]
        return self.handle.async_pread(buffer, path, offset)

    def async_pwrite(self, buffer: Tensor, path: str, offset: int) -> int:
        if buffer.data_ptr() % _BLOCK_BYTES:
            buffer = torch.empty(buffer.shape, dtype=buffer.dtype).copy_(buffer)
        return self.handle.async_pwrite(buffer, path, offset)

    def wait(self) -> int:
        completed = self.handle.wait()
        for buffer, staging in self._pending_reads:
            buffer.copy_(staging)
        self._pending_reads.clear()
        return completed


def patch_aio_builder(builder: Any) -> None:
    """Makes DeepSpeed's builder of `async_io` wrap every handle in `AlignedAio` from now on."""
    load = builder.load
    if getattr(load, "aligned", False):
        return

    def load_aligned(self: Any, verbose: bool = True) -> Any:
        make_handle = load(self, verbose).aio_handle
        return SimpleNamespace(aio_handle=lambda *arguments, **named: AlignedAio(make_handle(*arguments, **named)))

    load_aligned.aligned = True  # pyright: ignore[reportFunctionMemberAccess]
    builder.load = load_aligned
