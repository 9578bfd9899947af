"""How this process treats memory that it has freed."""

import ctypes
import os
from collections.abc import Callable
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of mallopt(3)."""


@cache
def keep_freed_memory() -> None:
    """Let glibc reuse the memory of large tensors instead of giving it back to the operating system at once.

    By default every tensor beyond 32 MiB is mapped anew, and its pages are cleared one fault at a time: on the CPU a
    sixth of a training step of MobileNetV2. Costs some 5 % more memory. What is free is given back before a fork, since
    a child would keep its parent's old pages alive. Does nothing where the C library is another.
    """
    mallopt, malloc_trim = _glibc("mallopt"), _glibc("malloc_trim")
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)
    os.register_at_fork(before=lambda: malloc_trim(0))


def _glibc(name: str) -> Callable[..., object]:
    """A function of glibc; one that does nothing where the C library is another."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return lambda *arguments: None
