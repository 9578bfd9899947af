"""Page faults, as the operating system counts them, of large blocks that are allocated, written and freed in turn."""

import ctypes
import platform
import resource
import subprocess
import sys

import pytest

from cnnlab.memory import keep_freed_memory

BLOCK = 64 * 2**20


def faults_of_ten_blocks(keep: bool) -> int:
    """In a new process: a fork would inherit what an earlier test has set."""
    found = subprocess.run([sys.executable, __file__, *(["keep"] if keep else [])], capture_output=True, check=True)
    return int(found.stdout)


def measure() -> int:
    """A first block, after which its memory could be used again, is not counted."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    counts = []
    for _ in range(11):
        block = libc.malloc(BLOCK)
        libc.memset(block, 1, BLOCK)
        libc.free(block)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return counts[-1] - counts[0]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_faults():
    assert faults_of_ten_blocks(keep=False) >= 10 * 32  # a page has 4 KiB, or 2 MiB
    assert faults_of_ten_blocks(keep=True) < 32


if __name__ == "__main__":
    if sys.argv[1:] == ["keep"]:
        keep_freed_memory()
    print(measure())
