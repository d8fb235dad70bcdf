"""Python's collector of cyclic garbage, and how to do without it for a while."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Let the collector rest in this block, which makes many objects that all stay.

    It would search them for cycles again and again: a third of the time in which the list of a
    large dataset is read.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
