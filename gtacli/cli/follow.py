"""The consumer of every stream of results: warnings, JSON lines, progress, Ctrl-C, exit status.

ending = follow(
    lambda stop: predict(model, paths, compute, stop=stop),
    lines(call.json, lambda result: result["image"]),
    call.json,
)
return ending.status
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import NamedTuple, TypeVar

from gtacli.cli import console
from gtacli.cli.spelling import with_flags
from gtacli.images.decode import summarize_damage
from gtacli.inference.stream import Failure, Stop
from gtacli.runtime.interrupts import StopSignal
from gtacli.runtime.repeated import RepeatedWarning

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Ending(NamedTuple):
    """The end of a stream.

    Attributes:
        status: the exit status: 0, 1 if some images failed, 130 if it was interrupted.
        done: images that were processed.
        failed: images that could not be processed.
    """

    status: int
    done: int
    failed: int


def follow(
    start: Callable[[Stop], Iterable[Result | Failure]],
    show: Callable[[Result], object],
    as_json: bool,
    *,
    label: str | None = None,
    total: int | None = None,
    every: float | None = None,
    size: Callable[[Result], int] = lambda result: 1,
    interrupted: str = "interrupted; the results are those of the images so far",
) -> Ending:
    """Follow a stream to its end, or until Ctrl-C or SIGTERM asks it to stop.

    A failure is a warning, with `as_json` also a line of JSON, and the stream continues; of many
    failures the first few are warnings, and the rest is counted. After a stop the results in
    progress are still shown; a second Ctrl-C raises KeyboardInterrupt.

    Args:
        start: begins the stream; it is given the function that says when to stop.
        show: called with each result.
        label: of the progress bar; None: no bar.
        total: images of the whole stream, if known.
        every: seconds between progress lines where there is no terminal; None: no lines.
        size: returns how many images a result stands for.
        interrupted: the warning after a stop.
    """
    done = failed = 0
    failures = RepeatedWarning(log)
    quiet = nullcontext(lambda steps: None)
    bar = quiet if label is None else console.progress(label, total, every)
    with StopSignal() as signal, bar as advance:
        for result in start(lambda: signal.requested):
            if isinstance(result, Failure):
                failed += 1
                failures.add(result.error)
                if as_json:
                    console.emit({"image": result.image, "error": with_flags(result.error)})
                advance(1)
            else:
                show(result)
                done += size(result)
                advance(size(result))
    failures.summarize()
    summarize_damage()
    if signal.requested:
        log.warning("%s", interrupted)
        return Ending(130, done, failed)
    return Ending(1 if failed else 0, done, failed)


def lines(as_json: bool, text: Callable[[Result], str]) -> Callable[[Result], None]:
    """Return a function that prints each result, as JSON or as its text."""
    return console.emit if as_json else lambda result: console.say(text(result))
