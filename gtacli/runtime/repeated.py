"""Warnings about many images: the first few in full, then how many there were."""

from __future__ import annotations

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
