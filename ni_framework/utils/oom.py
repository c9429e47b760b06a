"""Recognizes errors that mean that memory is exhausted."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether torch or the machine could not allocate a tensor.

    `torch.OutOfMemoryError` is raised on GPUs; on the CPU torch raises a `RuntimeError` that only its message identifies.
    """
    phrases = ("allocate", "Storage size calculation overflowed", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
    )
