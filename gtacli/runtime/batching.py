"""Batch sizes, and when one CPU core takes a whole batch from the file to the result.

With a batch per core every core is busy: no thread waits for a stage that another one occupies, and
torch's operators, on one thread each, need not synchronize after every product. That is not for a
GPU, nor for images that are enough work for all cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from gtacli.runtime.machine import usable_cores

T = TypeVar("T")

CHUNK = 8
"""Images per core and batch: enough to make the set-up of a product negligible."""
CHUNK_PATCHES = 8192
"""Patches per core and batch, so that large images stay within a bounded memory."""
MANY_PATCHES = 4096
"""Patches of an image from which on all cores process it together."""


def fits_one_core(on_cpu: bool, patches: int, threads: int | None) -> bool:
    """Return whether images of so many patches are best processed by one thread per batch."""
    return on_cpu and patches < MANY_PATCHES and threads != 0


def chunk_size(batch_size: int, patches: int) -> int:
    """Return the images per batch on a CPU, at most `batch_size`."""
    return max(1, min(batch_size, CHUNK, CHUNK_PATCHES // patches))


def thread_count(threads: int | None) -> int:
    """Return `threads`, or one per core for None."""
    return usable_cores() if threads is None else threads


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield `size` items at a time, in the end the rest."""
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk
