"""What the C library does with freed memory."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of mallopt in glibc's malloc.h


def keep_freed_memory() -> None:
    """Lets the C library keep freed memory instead of giving it back to the system, where it can.

    A training step frees and takes the same large blocks again and again, and each time the system would clear their pages.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)
    except (AttributeError, OSError, TypeError):  # another C library
        return
