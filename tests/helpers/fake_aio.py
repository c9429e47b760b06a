"""Replaces the compiled part of DeepSpeed that reads and writes a disk asynchronously, where it is not available."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ni_framework.engines.deepspeed.setup import import_deepspeed


class FakeAio:
    """Reads and writes only when `wait` is called, so that a buffer that is used too early has wrong values."""

    # All pinned buffers that have not been freed, by their first address.
    pinned: dict[int, Tensor] = {}

    def __init__(self, **_: Any) -> None:
        # Whether each request writes, its buffer and its file.
        self.requests: list[tuple[bool, Tensor, str]] = []

    def new_cpu_locked_tensor(self, number: int, like: Tensor) -> Tensor:
        # The values are not zeros, because the real function does not initialize the buffer either.
        buffer = torch.full((number + 512,), 7, dtype=like.dtype)
        aligned = buffer[-buffer.data_ptr() % 512 // like.element_size() :][:number]
        self.pinned[aligned.data_ptr()] = aligned
        return aligned

    def free_cpu_locked_tensor(self, tensor: Tensor) -> bool:
        return self.pinned.pop(tensor.data_ptr(), None) is not None

    def is_pinned(self, tensor: Tensor) -> bool:
        start = tensor.data_ptr()
        return any(
            first <= start and start + tensor.nbytes <= first + buffer.nbytes for first, buffer in self.pinned.items()
        )

    def async_pread(self, buffer: Tensor, path: str, offset: int) -> int:
        return self._add_request(False, buffer, path, offset)

    def async_pwrite(self, buffer: Tensor, path: str, offset: int) -> int:
        return self._add_request(True, buffer, path, offset)

    def wait(self) -> int:
        for is_write, buffer, path in self.requests:
            content = buffer.detach().numpy()
            if is_write:
                content.tofile(path)
            else:
                assert os.path.getsize(path) >= content.nbytes, path
                # Like the real one, this reads nothing into pinned memory that does not start at a block, without an error.
                # Memory that is not pinned is copied.
                if buffer.data_ptr() % 512 == 0 or not self.is_pinned(buffer):
                    buffer.copy_(torch.from_file(path, size=buffer.numel(), dtype=buffer.dtype))
        num_done = len(self.requests)
        self.requests.clear()
        return num_done

    def _add_request(self, is_write: bool, buffer: Tensor, path: str, offset: int) -> int:
        # The real one cannot read or write parts of a block either.
        assert offset == 0, "requests start at the beginning of a file"
        assert buffer.nbytes % 1024 == 0, "requests have whole blocks"
        self.requests.append((is_write, buffer, path))
        return 0


def use_fake_aio() -> None:
    """Makes DeepSpeed use `FakeAio` from now on, in this process."""
    import sys

    import_deepspeed(sys.stderr)
    from deepspeed.ops.op_builder import AsyncIOBuilder  # pyright: ignore[reportAttributeAccessIssue]

    AsyncIOBuilder.load = lambda self, verbose=True: SimpleNamespace(aio_handle=FakeAio)
