"""Functions run as in a container: in a forked process whose /dev/shm is another one."""

import ctypes
import os
import pickle
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

CLONE_NEWNS = 0x20000


def in_container(shared_memory: str, function: Callable[[], Any]) -> Any:
    """What `function` returns, or the error it raises, where /dev/shm is mounted with these options of tmpfs."""
    source, target = os.pipe()
    child = os.fork()
    if not child:
        with os.fdopen(target, "wb") as file:
            pickle.dump(_mounted_and_run(shared_memory, function), file)
        os._exit(0)
    os.close(target)
    with os.fdopen(source, "rb") as file:
        mounted, result = pickle.load(file)
    os.waitpid(child, 0)
    if not mounted:
        pytest.skip(f"no file system can be mounted: {result}")
    if isinstance(result, Exception):
        raise result
    return result


def _mounted_and_run(shared_memory: str, function: Callable[[], Any]) -> tuple[bool, Any]:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        return False, os.strerror(ctypes.get_errno())
    for options in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", shared_memory, "tmpfs", "/dev/shm"]):
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
        if mounted.returncode:
            return False, mounted.stderr.strip()
    try:
        return True, function()
    except Exception as error:
        return True, error
