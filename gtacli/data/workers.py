"""Worker processes that load batches, and what happens where they cannot send them."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from gtacli.data.store import ImageStore
from gtacli.runtime.interrupts import signals_held
from gtacli.runtime.limits import explain_unshared
from gtacli.runtime.processes import (
    begin_worker,
    ignore_ends_of_workers,
    kill_workers_at_exit,
)

T = TypeVar("T")
log = logging.getLogger(__name__)
_SIGNAL_SECONDS = 1.0


def load_in_workers(
    load: Callable[[int], Iterable[T]], workers: int, context: str | None
) -> Iterator[T]:
    """Yield what `load` loads; what no worker can load or send here, this process loads.

    Args:
        load: number of workers -> the items that were not yielded yet.
        workers: number of processes.
        context: their start method; None: the platform's.
    """
    if workers and ImageStore.shareable:
        kill_workers_at_exit()
        reason = None
        try:
            _try_to_share(workers, context)
            with signals_held():
                loaded = iter(load(workers))
            yield from _receive(loaded)
        except (OSError, RuntimeError) as error:
            listen = ignore_ends_of_workers()
            reason = explain_unshared(error)
            if reason is None:
                raise
        if reason is None:
            return
        listen()  # torch's iterator is gone by now, and its workers with it
        log.warning("%s: images are loaded by the main process", reason)
        ImageStore.shareable = False
    yield from load(0)


def start_worker(number: int) -> None:
    """Prepare a worker of a DataLoader, as its `worker_init_fn`."""
    begin_worker()


def _receive(loaded: Iterable[T]) -> Iterator[T]:
    """Yield the batches; where a worker has ended, raise the error that says so."""
    try:
        yield from loaded
    except (EOFError, ConnectionError) as error:
        # The connection has ended first. The signal that follows raises torch's own error here.
        time.sleep(_SIGNAL_SECONDS)
        raise RuntimeError("DataLoader worker (pid unknown) exited unexpectedly") from error


def _try_to_share(workers: int, context: str | None) -> None:
    """Raise the system's error if there cannot be as many queues as workers need.

    torch's own attempt would leave an iterator behind whose clean-up fails, too.
    """
    queues = multiprocessing.get_context(context)
    kept = [queues.Event(), *(queues.Queue() for _ in range(workers + 1))]
    del kept
