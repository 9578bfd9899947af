"""Page faults, as the operating system counts them, of large blocks that are allocated, written and freed in turn."""

import ctypes
import multiprocessing
import platform
import resource

import pytest

from cnnlab.memory import keep_freed_memory

BLOCK = 64 * 2**20


def faults_of_ten_blocks(keep: bool) -> int:
    """In a process of its own; a first block, after which its memory could be used again, is not counted."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)

    def measure() -> None:
        if keep:
            keep_freed_memory()
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        counts = []
        for _ in range(11):
            block = libc.malloc(BLOCK)
            libc.memset(block, 1, BLOCK)
            libc.free(block)
            counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        sender.send(counts[-1] - counts[0])

    process = multiprocessing.get_context("fork").Process(target=measure)
    process.start()
    process.join()
    return receiver.recv()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_faults():
    assert faults_of_ten_blocks(keep=False) >= 10 * 32  # a page has 4 KiB, or 2 MiB
    assert faults_of_ten_blocks(keep=True) < 32
