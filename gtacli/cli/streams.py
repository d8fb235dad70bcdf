"""The standard streams of a command: closed ones, and writes that fail.

A closed descriptor would be given to the next file that is opened, and a library's message would
then be written into it. A full disk behind stdout costs results, which is an error; the log on
stderr must never end a run.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from gtacli.errors import RunError, UsageError


def prepare_streams() -> None:
    """Put readable and writable streams in place of closed ones, and let no failed write surprise.

    Raises UsageError if stdout is closed, where the results should go, or if the current folder is
    gone, without which torch's libraries end the process.
    """
    closed = [stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)]
    for number in range(3):
        _occupy(number)
    if closed[0]:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # for as long as the process lives
    if closed[2]:
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    else:
        sys.stderr = _replace(sys.stderr, lambda error: None)
    if closed[1]:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
        raise UsageError("stdout is closed, where the results go; >/dev/null drops them")
    sys.stdout = _replace(sys.stdout, _fail)
    try:
        os.getcwd()
    except OSError:
        raise UsageError("the current folder has been removed; change to another one") from None


def drop_stdout() -> None:
    """Write to nowhere from now on; else the interpreter's own flush at exit would complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _occupy(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        with suppress(OSError):
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _fail(error: OSError) -> None:
    drop_stdout()
    raise RunError(f"stdout cannot be written: {error.strerror}") from error


def _replace(stream: Any, failed: Callable[[OSError], None]) -> IO[str]:
    """Return a stream like `stream`, of which `failed` is told what could not be written."""
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(raw, failed)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Output(io.RawIOBase):
    """A raw stream that writes to another one; a reader that has gone is still an error."""

    def __init__(self, raw: io.RawIOBase, failed: Callable[[OSError], None]) -> None:
        self._raw = raw
        self._failed = failed

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int | None:
        try:
            return self._raw.write(data)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and self._failed is _fail:
                raise
            self._failed(error)
            return len(data)
