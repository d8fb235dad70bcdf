"""The interface of an experiment logger: it gets a run's config, its epochs and its summary.

A plug-in subclasses `RunLogger`, defines a Pydantic class for its options if it has any, and
registers itself in the entry-point group `gta.loggers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from gtacli.config.parts import LoggerOptions

O = TypeVar("O", bound=LoggerOptions)  # noqa: E741


class RunLogger(ABC, Generic[O]):
    """A logger of one run. An error in it does not end the run, which goes on without it.

    Its package is imported when it is made, not with its module; an ImportError is reported
    before the run begins.

    Args:
        options: the logger's validated options.

    Attributes:
        Options: class of the options.
        install: the command that installs its package, for that report.
    """

    Options: ClassVar[type[LoggerOptions]] = LoggerOptions
    install: ClassVar[str] = ""

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def start(self, config: Mapping[str, Any], run: Path) -> None:
        """Log the resolved config; `run` is the run's folder, which exists."""

    @abstractmethod
    def row(self, row: Mapping[str, Any], step: int) -> None:
        """Log an epoch's row of metrics.jsonl; `step` counts epochs."""

    @abstractmethod
    def finish(self, summary: Mapping[str, Any]) -> None:
        """Log the content of summary.json and close."""


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that can be plotted."""
    kinds = (int, float)
    return {k: v for k, v in values.items() if isinstance(v, kinds) and not isinstance(v, bool)}
