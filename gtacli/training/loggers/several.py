"""Several loggers as one observer of a run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from operator import methodcaller
from pathlib import Path
from typing import Any

from gtacli.config.base import build
from gtacli.errors import UsageError, reason_of_library
from gtacli.registry import LOGGERS
from gtacli.training.loggers.base import RunLogger
from gtacli.training.loop import Observer

log = logging.getLogger(__name__)


class Loggers:
    """Several loggers and an observer as one observer; a logger that fails is dropped.

    Args:
        names: of registered loggers.
        options: of loggers, by name.
        observer: gets everything first.
        epochs: of the first phase; the steps of a refit's rows continue from there. May be set
            later, before the first such row.

    Raises UsageError for a package that is not installed.
    """

    def __init__(
        self,
        names: Sequence[str],
        options: Mapping[str, Mapping[str, Any]],
        observer: Observer,
        epochs: int,
    ) -> None:
        self.observer, self.epochs = observer, epochs
        self.active: dict[str, RunLogger[Any]] = {}
        for name in dict.fromkeys(names):
            kind = LOGGERS.load(name)
            own = build(kind.Options, options.get(name, {}), f"loggers.{name}")
            try:
                self.active[name] = kind(own)
            except ImportError as e:
                way_out = f"; {kind.install}" if kind.install else ""
                text = f"{name} cannot be imported ({e}){way_out}"
                raise UsageError(text, option="log") from e

    def start(self, config: Mapping[str, Any], run: Path) -> None:
        self._for_each(lambda logger: logger.start(config, run))

    def step(self, epoch: int, batch: int, batches: int, epochs: int, loss: float) -> None:
        self.observer.step(epoch, batch, batches, epochs, loss)

    def epoch(self, row: dict[str, Any]) -> None:
        self.observer.epoch(row)
        self.catch_up([row])

    def catch_up(self, rows: Iterable[dict[str, Any]]) -> None:
        """Log epochs that were trained without an observer."""
        for row in rows:
            step = row["epoch"] + (self.epochs if "phase" in row else 0)
            self._for_each(methodcaller("row", row, step))

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._for_each(lambda logger: logger.finish(summary))

    def _for_each(self, call: Callable[[RunLogger[Any]], None]) -> None:
        for name, logger in list(self.active.items()):
            try:
                with redirect_stdout(sys.stderr):  # stdout is for results
                    call(logger)
            except Exception as e:  # a full disk, a lost connection, a bug in the package
                reason = reason_of_library(e)
                log.warning("`log`: %s failed and is dropped (%s)", name, reason)
                del self.active[name]
