"""Many small products on a CPU: threads over images or panels, not within a product.

A product of 0.1 ms gains little from being split, and each split waits for the slowest thread: on
a machine that does something else as well (loading the next images) that wait is a scheduler's
time slice, and hundreds of them cost more than the whole solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Run torch's operators on the calling thread alone, if `wanted`."""
    before = torch.get_num_threads()
    if not wanted or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def each(work: Callable[[T], Tensor], items: Sequence[T], threads: int) -> list[Tensor]:
    """Return `work(item)` of every item, in order, computed on a number of threads.

    Call it with torch's operators on one thread. Each thread has its own autograd modes. The pool
    ends with the call: threads do not survive a fork.
    """
    threads = min(threads, len(items))
    if threads <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
