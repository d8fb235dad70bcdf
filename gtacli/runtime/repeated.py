"""Messages that would repeat: warnings about many images, what each of several runs logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging import Logger

SHOWN = 5
"""Warnings of one kind that are logged in full."""


class RepeatedWarning:
    """Warnings of one kind, of which there may be as many as images.

    Args:
        log: where they are logged.
        prefix: of each line.
    """

    def __init__(self, log: Logger, prefix: str = "") -> None:
        self._log, self._prefix = log, prefix
        self._count = self._told = 0

    def add(self, text: str) -> None:
        """Log a warning, or count it if there were several already."""
        self._count += 1
        if self._count <= SHOWN:
            self._told = self._count
            self._log.warning("%s%s", self._prefix, text)

    def summarize(self) -> None:
        """Log how many were only counted since the last summary; nothing if there were none."""
        if self._count > self._told:
            more, self._told = self._count - self._told, self._count
            self._log.warning(
                "%s%s more like these, %s in all", self._prefix, f"{more:,}", f"{self._count:,}"
            )


@contextmanager
def hide_repeated(*modules: str) -> Iterator[None]:
    """Log warnings alone of modules of gtacli, by their names in it, inside the context.

    Where debugging messages are logged, all others are, too.
    """
    shown = logging.getLogger("gtacli").isEnabledFor(logging.DEBUG)
    with logged_from(logging.WARNING, *(() if shown else (f"gtacli.{name}" for name in modules))):
        yield


@contextmanager
def logged_from(level: int, *names: str) -> Iterator[None]:
    """Log messages of this level and above alone, of the loggers of these names."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
