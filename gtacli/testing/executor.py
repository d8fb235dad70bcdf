"""Promises of an executor, checked with commands that end at once."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gtacli.errors import GtaError
from gtacli.executors.base import Executor, ExecutorOptions
from gtacli.testing.options import Promises, build_options, option_promises
from gtacli.testing.promises import NotApplicable, require, require_clear

SECONDS = 120
"""Time for a command that prints a list."""


def executor_promises(part: Any, given: Mapping[str, Any]) -> Promises:
    """Return the promises of an executor's class with some options."""

    def on(promise: Callable[[Any, Mapping[str, Any]], None]) -> Callable[[], None]:
        return partial(promise, part, given)

    return {
        **option_promises(part, given, ExecutorOptions),
        "it opens here or says in words why not": on(_opens),
        "it runs commands and returns their exit status": on(_runs),
        "it ends what still runs": on(_closes),
    }


@contextmanager
def opened(part: Any, given: Mapping[str, Any], jobs: int | None = 2) -> Iterator[Any]:
    """Open an executor in an empty folder; the check closes it.

    Raises NotApplicable where it cannot run.
    """
    options, before = build_options(part, given, ExecutorOptions), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where its commands run
        try:
            try:
                executor = part(options, jobs, Path(folder, "executor"))
            except GtaError as error:
                raise NotApplicable(f"it does not run here: {error}") from error
            yield executor
        finally:
            os.chdir(before)


def _opens(part: Any, given: Mapping[str, Any]) -> None:
    options = build_options(part, given, ExecutorOptions)
    with tempfile.TemporaryDirectory() as folder:
        try:
            executor: Executor[Any] = part(options, 1, Path(folder))
        except GtaError as error:
            require_clear(error, "where it cannot run")
            return
        try:
            slots = executor.slots
            good = slots is None or (isinstance(slots, int) and slots >= 1)
            require(good, f"slots is {slots!r}, not a number of commands")
        finally:
            executor.close()


def _runs(part: Any, given: Mapping[str, Any]) -> None:
    with opened(part, given) as executor:
        good, bad = Path("good.log").absolute(), Path("logs/bad.log").absolute()
        jobs = [
            executor.submit(["plugins", "list"], good),
            executor.submit(["no-such-command"], bad),
        ]
        end = time.monotonic() + SECONDS
        while not all(job.done() for job in jobs) and time.monotonic() < end:
            time.sleep(0.05)
        require(all(job.done() for job in jobs), f"a command does not end within {SECONDS} s")
        found = [job.result() for job in jobs]
        require(found == [0, 2], f"exit statuses are {found}, not [0, 2]")
        said = bad.read_text(encoding="utf-8") if bad.exists() else ""
        require("no-such-command" in said, "what a command says on stderr is not in its log")
        executor.close()


def _closes(part: Any, given: Mapping[str, Any]) -> None:
    with opened(part, given) as executor:
        executor.submit(["demo", "-o", "long"], Path("long.log").absolute())
        start = time.monotonic()
        executor.close()
        took = time.monotonic() - start
        require(took < SECONDS, f"close() takes {took:.0f} s while a command runs")
        require(not Path("long", "summary.json").exists(), "close() lets a command run to its end")
