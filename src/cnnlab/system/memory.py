"""Tune glibc's allocator so that freed memory is reused."""

import ctypes
import os
from collections.abc import Callable
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of mallopt(3)."""


@cache
def keep_freed_memory() -> None:
    """Let glibc reuse the memory of large tensors instead of returning it to the operating system immediately.

    By default glibc maps fresh memory for every tensor above 32 MiB, and each page faults and is zeroed on first use,
    which slows down training on the CPU. Reuse costs some memory; free memory is returned before a fork, because a
    child would keep its parent's old pages alive. Does nothing with another C library.
    """
    mallopt, malloc_trim = _glibc("mallopt"), _glibc("malloc_trim")
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)
    os.register_at_fork(before=lambda: malloc_trim(0))


def _glibc(name: str) -> Callable[..., object]:
    """Return a function of glibc, or one that does nothing with another C library."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return lambda *arguments: None
