"""Page faults, as the operating system counts them, of large blocks that are allocated, written and freed in turn."""

import ctypes
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cnnlab.system.memory import keep_freed_memory

BLOCK = 64 * 2**20


def faults_of_ten_blocks(keep: bool) -> int:
    """In a new process: a fork would inherit what an earlier test has set."""
    found = subprocess.run([sys.executable, __file__, *(["keep"] if keep else [])], capture_output=True, check=True)
    return int(found.stdout)


def c_library() -> ctypes.CDLL:
    """With the types of malloc, free and memset."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    return libc


def measure() -> int:
    """A first block, after which its memory could be used again, is not counted."""
    libc = c_library()
    counts = []
    for _ in range(11):
        block = libc.malloc(BLOCK)
        libc.memset(block, 1, BLOCK)
        libc.free(block)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return counts[-1] - counts[0]


def resident_after(fork: bool) -> int:
    """Bytes that a process still holds of blocks of 256 MiB in all that it has kept after freeing them."""
    libc = c_library()
    keep_freed_memory()
    before = resident()
    blocks = [libc.malloc(BLOCK) for _ in range(4)]
    for block in blocks:
        libc.memset(block, 1, BLOCK)
    for block in blocks:
        libc.free(block)
    if fork and not os.fork():
        os._exit(0)
    return resident() - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_faults():
    assert faults_of_ten_blocks(keep=False) >= 10 * 32  # a page has 4 KiB, or 2 MiB
    assert faults_of_ten_blocks(keep=True) < 32


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_kept_memory_is_given_back_before_a_fork():
    kept, given = (
        int(subprocess.run([sys.executable, __file__, word], capture_output=True, check=True).stdout)
        for word in ("hold", "fork")
    )
    assert kept > 3 * BLOCK
    assert given < BLOCK


if __name__ == "__main__":
    if sys.argv[1:] in (["hold"], ["fork"]):
        print(resident_after(fork=sys.argv[1] == "fork"))
        sys.exit()
    if sys.argv[1:] == ["keep"]:
        keep_freed_memory()
    print(measure())
