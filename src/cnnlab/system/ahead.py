"""Do work ahead in threads, in order: while a network computes, the next pictures are decoded."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cnnlab.system.processes import cores

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], ahead: int, threads: int | None = None) -> Iterator[R]:
    """Yield the function's results in the order of the items; threads work on at most `ahead` items that come next.

    threads: their number; None: one for each core.
    For functions that release Python's lock, as decoding and resizing do. An error is raised where its result would be.
    """
    pool = ThreadPoolExecutor(threads or cores())
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
