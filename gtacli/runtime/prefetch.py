"""Process a stream of items in threads, a little ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gtacli.runtime.machine import usable_cores

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 64
"""Images in progress where nothing else bounds them: enough to keep every thread busy."""


def ahead(
    work: Callable[[T], R], items: Iterable[T], most: int, threads: int | None = None
) -> Iterator[R]:
    """Yield `work(item)` of each item, in order, computed in threads.

    Args:
        most: results that may wait for the consumer.
        threads: default: one per core, at most 16; 0: none, the consumer's thread works.
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
