"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory instead of returning it to the system, if it is glibc.

    A training step frees and allocates the same large blocks again and again; each time the system would clear their pages.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)
    except (AttributeError, OSError, TypeError):
        # Another C library has no mallopt.
        return
