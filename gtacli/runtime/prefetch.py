"""Process a stream of items in threads, a little ahead of the consumer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Generic, TypeVar

from gtacli.runtime.batching import chunks
from gtacli.runtime.interrupts import stop_is_requested
from gtacli.runtime.machine import usable_cores

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 64
"""Images in progress where nothing else bounds them: enough to keep every thread busy."""
_BLOCK = 256
"""Items that a thread gets at once, where they are handed over in blocks."""
_STOP_SECONDS = 0.1
"""Time between two looks whether a stop is requested."""


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


def ahead_in_blocks(
    work: Callable[[T], R], items: Iterable[T], threads: int | None = None
) -> Iterator[R]:
    """Like `ahead`, for work that takes less time than to hand it over, such as a look at a file.

    The threads are for a network, which is slow to answer.
    """

    def work_off(block: list[T]) -> list[R]:
        return [*map(work, block)]

    return chain.from_iterable(ahead(work_off, chunks(items, _BLOCK), AHEAD, threads))


def read_ahead(
    items: Iterable[T],
    most: int,
    most_bytes: int,
    size: Callable[[T], int],
    stop: Callable[[], bool] = stop_is_requested,
) -> Iterator[T]:
    """Yield the items in order; a thread reads them ahead of the consumer.

    Args:
        items: is iterated by that thread alone. An error of it is raised where it came.
        most, most_bytes: items and bytes that wait at most, beside the one that is being read.
        size: returns the bytes of an item.
        stop: once it returns True, no further item is waited for; default: where a stop is
            requested, see `gtacli.runtime.interrupts`.
    """
    buffer = _Buffer(items, most, most_bytes, size, stop)
    thread = threading.Thread(target=buffer.fill, daemon=True)  # may wait for a network for long
    thread.start()
    try:
        yield from buffer.take()
    finally:
        buffer.close()


class _Buffer(Generic[T]):
    """The items between the thread that reads and the one that consumes."""

    def __init__(
        self,
        items: Iterable[T],
        most: int,
        most_bytes: int,
        size: Callable[[T], int],
        stop: Callable[[], bool],
    ) -> None:
        self._items, self._size, self._stop = items, size, stop
        self._most, self._most_bytes = most, most_bytes
        self._waiting: deque[T] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = self._ended = False
        self._error: BaseException | None = None

    def fill(self) -> None:
        """Read the items, in the thread."""
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(self._has_room)
                    if self._closed:
                        break
                    self._waiting.append(item)
                    self._bytes += self._size(item)
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def take(self) -> Iterator[T]:
        """Yield the items."""
        while True:
            with self._changed:
                while not self._waiting:
                    if self._ended or self._stop():
                        break
                    self._changed.wait(_STOP_SECONDS)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._bytes -= self._size(item)
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Let the thread end at its next item."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _has_room(self) -> bool:
        fits = len(self._waiting) < self._most and self._bytes < self._most_bytes
        return self._closed or not self._waiting or fits
