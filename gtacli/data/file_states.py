"""Look up the states of many files, on a network several at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeVar

from gtacli.images.sources import Source
from gtacli.runtime.prefetch import ahead

R = TypeVar("R")
BLOCK = 256
"""Files that a thread looks up at once: on a local disk handing over one takes longer than it."""


def look_up(
    read: Callable[[Source], R], sources: Sequence[Source], threads: int | None = None
) -> list[R]:
    """Return `read(source)` of each image, in order.

    Args:
        threads: default: one per core, at most 16.
    """

    def read_block(block: Sequence[Source]) -> list[R]:
        return [*map(read, block)]

    blocks = [sources[k : k + BLOCK] for k in range(0, len(sources), BLOCK)]
    if len(blocks) < 2:  # no threads need to begin for a few files
        threads = 0
    return [*chain.from_iterable(ahead(read_block, blocks, 64, threads))]
