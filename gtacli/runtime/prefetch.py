"""Work on a stream of items in threads, a little ahead of whoever reads the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gtacli.runtime.machine import usable_cores

T = TypeVar("T")
R = TypeVar("R")


def ahead(
    work: Callable[[T], R], items: Iterable[T], most: int, threads: int | None = None
) -> Iterator[R]:
    """`map(work, items)` in threads, in order, at most `most` results ahead of the reader.

    threads: how many; 0: none, the reader does the work; default: as many as there are cores.
    """
    if threads == 0:
        yield from map(work, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads or min(16, usable_cores())) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
