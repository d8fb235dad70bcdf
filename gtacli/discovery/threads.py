"""Many small products on a CPU: threads over images, never over the parts of one small product.

A product of 0.1 ms gains little from being split, and each split waits for the slowest thread: on
a machine that does something else as well (loading the next images) that wait is a scheduler's
time slice, and hundreds of them cost more than the whole solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """torch's operators run on the calling thread alone."""
    before = torch.get_num_threads()
    if not wanted or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def over_images(
    solve: Callable[[Tensor, int], Tensor], features_BNC: Tensor, threads: int
) -> Tensor:
    """`solve(features, number of the first image)` of shares of the batch, a thread each.

    The first error of a share is raised when all are done.
    """
    if threads <= 1:
        return solve(features_BNC, 0)
    shares = features_BNC.tensor_split(threads)
    firsts = [0]
    for share in shares[:-1]:
        firsts.append(firsts[-1] + len(share))
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(solve, shares, firsts)))
