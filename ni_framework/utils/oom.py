"""Whether an error means that memory is exhausted."""

from __future__ import annotations


def too_large(error: BaseException) -> bool:
    """Whether torch or the machine has refused a tensor for its size; torch says so only in words."""
    words = ("allocate", "Storage size calculation overflowed", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )
