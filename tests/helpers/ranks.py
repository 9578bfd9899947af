"""The processes of a DDP run as copies of the test's own process: no interpreter starts and nothing is imported."""

import os
import socket
from collections.abc import Callable
from multiprocessing import get_context

import pytest


def run_ranks(function: Callable[..., object], *arguments: object, count: int = 2) -> list[int]:
    """Call function(rank, *arguments) in so many processes as Lightning's launcher would; return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("fork")
    processes = [
        context.Process(target=_as_rank, args=(rank, count, port, function, *arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    if any(process.exitcode is None for process in processes):
        for process in processes:
            process.kill()
        pytest.fail("a rank does not end")
    return [process.exitcode for process in processes]


def _as_rank(rank: int, count: int, port: int, function: Callable[..., object], *arguments: object) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    function(rank, *arguments)
