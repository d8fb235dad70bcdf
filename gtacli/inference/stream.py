"""The one loop over images: read ahead, batch, run, keep the order, report what fails.

    def read(path: str) -> Tensor: ...                      # raises ImageError
    def run(views: list[Tensor]) -> Sequence[Label]: ...    # one result per view

    for result in stream(paths, read, run, batch_size=32):
        if isinstance(result, Failure):
            print(result.image, result.error)

There are two ways of working. On a GPU, and for large images, threads read ahead of the one thread
that runs the model. For small models on a CPU each thread takes a batch from the file to the
result (`gtacli.runtime.batching.fits_one_core`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import TypeVar, cast

from gtacli.images.decode import ImageError
from gtacli.runtime.batching import chunks, thread_count
from gtacli.runtime.prefetch import ahead

Item = TypeVar("Item")
View = TypeVar("View")
Output = TypeVar("Output")
Result = TypeVar("Result")
Stop = Callable[[], bool]
"""Returns whether the user wants the stream to end early; see `gtacli.runtime.interrupts`."""

AHEAD = 16
"""Images in progress at least, so that small batches still keep every thread busy."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be processed.

    Attributes:
        image: its path, as it was given.
        error: why, in one line.
    """

    image: str
    error: str


def never() -> bool:
    """Return False: the stream runs to its end."""
    return False


def stream(
    items: Iterable[Item | Failure],
    read: Callable[[Item], View],
    run: Callable[[list[View]], Sequence[Output]],
    batch_size: int,
    *,
    finish: Callable[[Output], Result] | None = None,
    per_core: bool = False,
    threads: int | None = None,
    name: Callable[[Item], str] = str,
    stop: Stop = never,
) -> Iterator[Result | Failure]:
    """Yield a result or a failure for each item, in order and in constant memory.

    Args:
        items: the images; one that has failed already is passed on.
        read: makes what the model needs of one item, in any thread.
        run: returns one output per view of a batch of at least one; called by one thread at a time
            unless `per_core`.
        batch_size: items at a time. Those that fail count, too.
        finish: makes the result of an output (draws, writes), in any thread; default: the output.
        per_core: each thread does all three steps for its own batch, with torch on one thread.
        threads: default: one per core; 0: none, the caller's thread does everything.
        name: returns the path that a failure reports.
        stop: checked before each batch. What has run by then is finished and still yielded.

    An ImageError in `read` or `finish` becomes a Failure; any other error ends the stream.
    """
    end = cast(Callable[[Output], Result], finish or _same)

    def read_one(item: Item | Failure) -> tuple[str, View] | Failure:
        return _attempt(lambda item: (name(item), read(item)), item, name)

    def finish_one(output: tuple[str, Output] | Failure) -> Result | Failure:
        return _attempt(lambda output: end(output[1]), output, itemgetter(0))

    def run_batch(
        batch: list[tuple[str, View] | Failure],
    ) -> Iterator[tuple[str, Output] | Failure]:
        views = [one[1] for one in batch if not isinstance(one, Failure)]
        outputs = iter(run(views) if views else ())
        for one in batch:
            yield one if isinstance(one, Failure) else (one[0], next(outputs))

    def do_all(batch: list[Item | Failure]) -> list[Result | Failure]:
        if stop():
            return []
        return [finish_one(output) for output in run_batch([read_one(item) for item in batch])]

    if per_core:
        from gtacli.runtime.threads import one_thread  # torch, which other streams do not need

        workers = thread_count(threads)
        batches = _until(stop, chunks(items, batch_size))
        with one_thread():
            for results in ahead(do_all, batches, workers + 1, workers):
                yield from results
        return
    most = max(2 * batch_size, AHEAD)
    views = _until(stop, chunks(ahead(read_one, items, most, threads), batch_size))
    outputs = chain.from_iterable(map(run_batch, views))
    yield from ahead(finish_one, outputs, most, 0 if finish is None else threads)


def map_ahead(
    items: Iterable[Item | Failure],
    work: Callable[[Item], Result],
    most: int,
    threads: int | None = None,
    name: Callable[[Item], str] = str,
) -> Iterator[Result | Failure]:
    """Yield `work(item)` or a failure for each item, in order; see `gtacli.runtime.prefetch.ahead`.

    This is one step of `stream`, for callers that form batches of their own, or that finish images
    in other threads than those that run the models.
    """
    return ahead(lambda item: _attempt(work, item, name), items, most, threads)


def _attempt(
    work: Callable[[Item], Result], item: Item | Failure, name: Callable[[Item], str]
) -> Result | Failure:
    if isinstance(item, Failure):
        return item
    try:
        return work(item)
    except ImageError as error:
        return Failure(name(item), str(error))


def _until(stop: Stop, batches: Iterable[Item]) -> Iterator[Item]:
    """Yield batches up to the first one after which `stop` returns True."""
    for batch in batches:
        yield batch
        if stop():
            return


def _same(output: Output) -> Output:
    return output
