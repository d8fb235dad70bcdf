"""The output of the command line: results on stdout, log and progress on stderr.

Colors and bars appear on a terminal only (NO_COLOR is respected), plain lines otherwise. Control
characters in file names and messages are escaped: a terminal would obey them.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Any

from gtacli.cli.spelling import with_flags
from gtacli.runtime.atomic import to_json
from gtacli.runtime.escapes import CONTROLS, escape_controls
from gtacli.runtime.processes import process_info

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)


def escape_lines(text: str) -> str:
    """Like `escape_controls`, but keep the line breaks, for a traceback."""
    return "\n".join(map(escape_controls, text.split("\n")))


@lru_cache(maxsize=1)
def stderr() -> Console:
    """Return the console that log and progress share, so that lines do not break a bar."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


class _Formatter(logging.Formatter):
    """A formatter whose messages are one line; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape_controls(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return escape_lines(super().format(record))


class _LogHandler(logging.Handler):
    """A log handler that prints lines above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = with_flags(self.format(record))
            if record.levelno >= logging.WARNING:
                style = "yellow" if record.levelno < logging.ERROR else "red"
                text = f"{record.levelname.lower()}: {text}"
            else:
                style = "dim" if record.levelno < logging.INFO else ""
            stderr().print(text, style=style, markup=False, soft_wrap=True)
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)


def setup(*, quiet: bool = False, verbose: bool = False) -> None:
    """Send the log to stderr: gtacli's messages, and warnings of other packages.

    Of several processes only the first one logs.

    Args:
        quiet: log warnings only.
        verbose: log all of gtacli's messages.
    """
    others = process_info().rank > 0
    handler = _LogHandler()
    handler.setFormatter(_Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if not isinstance(h, _LogHandler)] + [handler]
    root.setLevel(logging.ERROR if others else logging.WARNING)
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("gtacli").setLevel(logging.ERROR if others else level)
    if not verbose:
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").setLevel(logging.ERROR)


_collected: ContextVar[list[Any] | None] = ContextVar("results", default=None)
_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def collecting(silent: bool) -> Iterator[list[Any]]:
    """Collect the results inside in a list instead of printing them.

    Args:
        silent: show no progress.
    """
    results: list[Any] = []
    tokens = _collected.set(results), _silent.set(silent)
    try:
        yield results
    finally:
        _collected.reset(tokens[0])
        _silent.reset(tokens[1])


def emit(result: Any) -> None:
    """Print a result as a line of JSON. A number that is not finite becomes null."""
    if (results := _collected.get()) is not None:
        results.append(result)
        return
    text = to_json(result, ensure_ascii=False)  # escapes C0 only
    text = CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        sys.stdout.write(text + "\n")
    except UnicodeEncodeError:  # a path with bytes that this encoding lacks
        sys.stdout.write(to_json(result) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a line of a result as text."""
    if _collected.get() is not None:
        return
    text = escape_controls(text)
    try:
        sys.stdout.write(text + "\n")
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def write(text: str) -> None:
    """Print a result of several lines."""
    for line in text.splitlines():
        say(line)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows as a table: aligned columns, a bold header on a terminal.

    A last column that is too long for a terminal is wrapped; in a file nothing is cut.
    """
    if _collected.get() is not None:
        return
    cells = [[escape_controls(_cell(value)) for value in row] for row in rows]
    right = [all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        rich_table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for i, name in enumerate(columns):
            last = i == len(columns) - 1
            rich_table.add_column(
                name, justify="right" if right[i] else "left", no_wrap=not last, overflow="fold"
            )
        for row in cells:
            rich_table.add_row(*(Text(cell) for cell in row))
        Console(highlight=False).print(rich_table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in [list(columns), *cells]:
        aligned = (
            cell.rjust(width) if r else cell.ljust(width)
            for cell, width, r in zip(row, widths, right, strict=True)
        )
        say("  ".join(aligned).rstrip())


@contextmanager
def progress(
    label: str, total: int | None, lines: float | None = None
) -> Iterator[Callable[..., None]]:
    """Show a progress bar on a terminal; yield `advance(steps=1, note=None)`.

    The bar disappears at the end. Without a terminal a line is logged every `lines` seconds; with
    None nothing is.
    """
    if _silent.get() or logging.getLogger("gtacli").level > logging.INFO:
        yield lambda steps=1, note=None: None
        return
    if not (stderr().is_terminal or stderr().is_jupyter):
        yield _ProgressLines(label, total, math.inf if lines is None else lines)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(label, total=total)

        def advance(steps: int = 1, note: str | None = None) -> None:
            described = {} if note is None else {"description": f"{label} {note}"}
            bar.update(task, advance=steps, **described)  # type: ignore[arg-type]

        yield advance


class _ProgressLines:
    """Log lines with the progress and the time left at the latest speed."""

    def __init__(self, label: str, total: int | None, every: float) -> None:
        self.label, self.total, self.every = label, total, every
        self.done = self.logged = 0
        self.since = monotonic()

    def __call__(self, steps: int = 1, note: str | None = None) -> None:
        self.done += steps
        seconds = monotonic() - self.since
        if seconds < self.every:
            return
        speed = (self.done - self.logged) / seconds
        text = f"{self.label}: {self.done:,}"
        if self.total is not None:
            text += f" of {self.total:,}"
            if speed > 0:
                text += f", {duration((self.total - self.done) / speed)} left"
        log.info("%s, %.3g a second%s", text, speed, f", {note}" if note else "")
        self.logged, self.since = self.done, monotonic()


def duration(seconds: float) -> str:
    """Return a time in words: 90 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def _is_number(value: Any) -> bool:
    """Return whether the cell is empty or holds a number, formatted or not."""
    if not isinstance(value, str):
        return value is None or isinstance(value, int | float)
    return value.replace(".", "", 1).replace("-", "", 1).isdecimal()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
