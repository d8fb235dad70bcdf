"""A few images at a time, each few in one thread from the file to the result.

On a CPU that keeps every core busy: none waits for a stage that another one is busy with, and
torch's operators, on one thread each, need not meet at the end of every product. It is not for a
GPU, nor for images that are work enough for all cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from gtacli.runtime.machine import usable_cores

T = TypeVar("T")

CHUNK = 8
"""Images at a time: enough for a product's setting up not to count."""
CHUNK_PATCHES = 8192
"""Patches at a time, so that large images stay within a bounded memory."""
MANY_PATCHES = 4096
"""Patches of an image from which on all cores work on it together."""


def a_core_each(on_cpu: bool, patches: int, threads: int | None) -> bool:
    """Whether images of so many patches are best done by one thread each few."""
    return on_cpu and patches < MANY_PATCHES and threads != 0


def chunk_size(batch_size: int, patches: int) -> int:
    """Images at a time on a CPU, `batch_size` at most."""
    return max(1, min(batch_size, CHUNK, CHUNK_PATCHES // patches))


def thread_count(threads: int | None) -> int:
    """As asked for, else one a core."""
    return usable_cores() if threads is None else threads


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`size` items at a time, the last time what is left."""
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk
