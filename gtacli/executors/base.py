"""The interface of an executor: it runs command lines of `gta` somewhere, several at a time.

A plug-in subclasses `Executor`, defines a Pydantic class for its options, and registers itself in
the entry-point group `gta.executors`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from gtacli.config.base import StrictModel
from gtacli.runtime.processes import LAUNCHER_PID, safe_path
from gtacli.runtime.regular import read_regular


class ExecutorOptions(StrictModel):
    """Options of an executor; a study has them in its table `executor`."""


O = TypeVar("O", bound=ExecutorOptions)  # noqa: E741


MOST_STARTS = 5
"""Starts of a command that is killed again and again before it has got on."""
_ENDED = (130, 137, 143)  # Ctrl-C or SIGTERM; as a shell reports SIGKILL and SIGTERM
_TAIL_BYTES = 4096
_STEP_SECONDS = 1.0


def was_ended(status: int) -> bool:
    """Return whether an exit status, or -signal, is that of a command that was ended by others."""
    return status < 0 or status in _ENDED


def last_line(log: Path) -> str | None:
    """Return the last line of a command's log, which is that of an error if it failed."""
    try:
        text = read_regular(log)[-_TAIL_BYTES:].decode("utf-8", "replace")
    except OSError:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else None


class Job(Protocol):
    """A command line that was submitted; futures and jobs of submitit have these methods."""

    def done(self) -> bool:
        """Return whether it has ended; must not wait."""

    def result(self) -> int:
        """Return its exit status, or -signal. Raises what the engine raises if it was lost."""


class Executor(ABC, Generic[O]):
    """A place where command lines run.

    Args:
        options: the executor's validated options.
        jobs: commands at a time; None: the executor's own number.
        folder: for files of its own.

    Attributes:
        Options: class of the options.
        slots: commands that run at a time; None where the engine has a queue of its own.
    """

    Options: ClassVar[type[ExecutorOptions]] = ExecutorOptions
    slots: int | None = None

    def __init__(self, options: O, jobs: int | None, folder: Path) -> None:
        self.options = options
        self.jobs = jobs
        self.folder = folder

    @abstractmethod
    def submit(self, words: Sequence[str], log: Path) -> Job:
        """Run `gta WORDS` in the working folder of this process, with stderr appended to `log`.

        stdout is not kept. If there is no free slot, it waits until there is one.
        """

    def close(self) -> None:
        """End what is still running, as SIGTERM does, and wait for it."""


def run_words(
    words: Sequence[str],
    log: Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    started: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
) -> int:
    """Run `gta WORDS` in a process of its own and return its exit status, or -signal.

    The process gets SIGTERM when this one ends.

    Args:
        env: variables beside those of this process.
        started: gets the process.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    own = {name: value for name, value in os.environ.items() if not _sets_an_option(name)}
    # A session of its own: Ctrl-C reaches it only through its executor.
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "gtacli", *words],
            cwd=cwd,
            env={**own, **safe_path(), **(env or {}), LAUNCHER_PID: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        ) as process,
    ):
        started(process)
        try:
            return _wait(process)
        except BaseException:  # of an engine that stops this worker
            with suppress(OSError):
                process.send_signal(signal.SIGTERM)
            process.wait()
            raise


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process in steps: Ray interrupts this one by a flag, which ends no system call."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_STEP_SECONDS)


def _sets_an_option(name: str) -> bool:
    """Return whether a variable sets an option of a command, or the rank of another process."""
    return (name.startswith("GTA_") and "__" in name) or name in (
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    )  # fmt: skip


class ThreadJob:
    """A job whose command is waited for by a thread of this process."""

    def __init__(self, run: Callable[[], int]) -> None:
        self._run = run
        self._status: int | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> int:
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._status is not None
        return self._status

    def _work(self) -> None:
        try:
            self._status = self._run()
        except BaseException as error:
            self._error = error
