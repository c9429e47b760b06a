"""Stands for the part of DeepSpeed that is compiled to read and write a disk, where it is not: the same calls, done late."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ni_framework.engines.deepspeed.sharded_build import import_deepspeed


class ByHand:
    """Reads and writes when it is waited for, so that a buffer that is used too early has other elements."""

    pinned: dict[int, Tensor] = {}  # what all have given out, by where it begins; it is there until it is given back

    def __init__(self, **_: Any) -> None:
        self.asked: list[tuple[bool, Tensor, str]] = []

    def new_cpu_locked_tensor(self, number: int, like: Tensor) -> Tensor:
        found = torch.full((number + 512,), 7, dtype=like.dtype)  # not zeros: nobody promises them
        found = found[-found.data_ptr() % 512 // like.element_size() :][:number]
        self.pinned[found.data_ptr()] = found
        return found

    def free_cpu_locked_tensor(self, tensor: Tensor) -> bool:
        return self.pinned.pop(tensor.data_ptr(), None) is not None

    def is_pinned(self, tensor: Tensor) -> bool:
        start = tensor.data_ptr()
        return any(first <= start and start + tensor.nbytes <= first + of.nbytes for first, of in self.pinned.items())

    def async_pread(self, buffer: Tensor, path: str, offset: int) -> int:
        return self._ask(False, buffer, path, offset)

    def async_pwrite(self, buffer: Tensor, path: str, offset: int) -> int:
        return self._ask(True, buffer, path, offset)

    def wait(self) -> int:
        for writes, buffer, path in self.asked:
            content = buffer.detach().numpy()
            if writes:
                content.tofile(path)
            else:
                assert os.path.getsize(path) >= content.nbytes, path
                # Into memory within a block nothing is read, and nothing said; other memory is passed through.
                if buffer.data_ptr() % 512 == 0 or not self.is_pinned(buffer):
                    buffer.copy_(torch.from_file(path, size=buffer.numel(), dtype=buffer.dtype))
        done = len(self.asked)
        self.asked.clear()
        return done

    def _ask(self, writes: bool, buffer: Tensor, path: str, offset: int) -> int:
        # As the real one has it: parts of a block cannot be read into other memory, or written from it.
        assert (offset, buffer.nbytes % 1024) == (0, 0)
        self.asked.append((writes, buffer, path))
        return 0


def use_by_hand() -> None:
    """Has DeepSpeed read and write by hand from now on, in this process."""
    import sys

    import_deepspeed(sys.stderr)
    from deepspeed.ops.op_builder import AsyncIOBuilder  # pyright: ignore[reportAttributeAccessIssue]

    AsyncIOBuilder.load = lambda self, verbose=True: SimpleNamespace(aio_handle=ByHand)
