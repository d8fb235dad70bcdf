"""The parts of a work, each a command on an executor; one that is killed is started again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtacli.errors import GtaError, RunError, reason_of_library
from gtacli.executors.base import MOST_STARTS, Executor, Job, last_line, was_ended

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2
ELSEWHERE_SECONDS = 1.0
"""Time between two looks at a part that another process works on."""
LONG_SECONDS = 600.0
"""Time of work after which a command that is killed has got on, as a job that met its limit."""
DONE = (0, 1)  # 1: some inputs failed


@dataclass
class Part:
    """A part of a work.

    Attributes:
        name: for messages.
        words: of its command, which goes on where an earlier one was killed.
        log: of its command.
        at_work: returns whether a process works on it, such as that of a command that was killed.
        job: its command, if it runs.
        starts: of its command, since it last worked for long.
        began: the moment of the last start.
        looked: the moment of the last look at other processes.
    """

    name: str
    words: Sequence[str]
    log: Path
    at_work: Callable[[], bool] = lambda: False
    job: Job | None = None
    starts: int = 0
    began: float = 0.0
    looked: float | None = None


def run_parts(
    executor: Executor[Any],
    parts: Sequence[Part],
    stop: Callable[[], bool],
    ended: Callable[[], object] = lambda: None,
) -> None:
    """Run the command of each part, until all are done or `stop` returns True; then close.

    A command that is killed or lost is started again. Of one that fails the others are waited for.

    Args:
        ended: called when a part has ended.

    Raises RunError for a part that failed.
    """
    failed: list[str] = []
    left = list(parts)
    try:
        while left and not stop():
            for part in list(left):
                if part.job is None:
                    _start(executor, part)
                elif (outcome := _outcome(part)) is not None:
                    part.job = None
                    problem = _problem(part, *outcome)
                    if problem is None and outcome[0] not in DONE:
                        continue
                    left.remove(part)
                    ended()
                    failed += [] if problem is None else [problem]
            time.sleep(POLL_SECONDS)
    finally:
        executor.close()
    if failed:
        more = "" if len(failed) == 1 else f" ({len(failed)} of {len(parts)} failed)"
        raise RunError(failed[0] + more)


def _start(executor: Executor[Any], part: Part) -> None:
    """Start the command of a part, unless another process works on it."""
    now = time.monotonic()
    if part.looked is not None and now - part.looked < ELSEWHERE_SECONDS:
        return
    if part.at_work():
        if part.looked is None:
            log.info("%s is at work already; waiting for it", part.name)
        part.looked = now
        return
    part.looked, part.began = None, now
    try:
        part.job = executor.submit(part.words, part.log)
    except GtaError:
        raise
    except Exception as error:  # of the engine
        raise RunError(f"cannot start {part.name}: {reason_of_library(error)}") from error
    part.starts += 1


def _outcome(part: Part) -> tuple[int, str] | None:
    """Return a part's exit status, or -1 and why it was lost; None while it runs."""
    assert part.job is not None
    try:
        return (part.job.result(), "") if part.job.done() else None
    except Exception as error:  # of the engine: the job was cancelled, or its node was lost
        return -1, reason_of_library(error)


def _problem(part: Part, status: int, lost: str) -> str | None:
    """Return why a part is given up; None if it is done, or is to be started again."""
    if status in DONE:
        return None
    if time.monotonic() - part.began > LONG_SECONDS:
        part.starts = 0
    line = lost or last_line(part.log) or ""
    if not was_ended(status):
        if part.at_work():  # it was refused, as another process was first
            part.starts -= 1
            return None
        text = f"{part.name} ended with status {status}"
    elif part.starts >= MOST_STARTS:
        text = f"{part.name} was killed {part.starts} times"
    else:
        log.warning("%s was killed; it is started again%s", part.name, lost and f" ({lost})")
        return None
    return f"{text}{line and f': {line}'}; its log is {part.log}"
