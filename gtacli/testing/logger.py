"""Promises of a logger, checked with a run of two epochs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gtacli.config.parts import LoggerOptions
from gtacli.testing.options import Promises, build_options, option_promises
from gtacli.testing.promises import BrokenPromise, NotApplicable, describe
from gtacli.testing.state import unchanged_process

CONFIG = {"model": "vit_tiny_patch16_224", "epochs": 2, "regularizer": {"gta": {}}, "out": None}
ROWS: tuple[dict[str, Any], ...] = (
    {"epoch": 0, "train_loss": 1.5, "val_top1": None, "attention": {"entropy": [1.0, 2.0]}},
    {"epoch": 1, "train_loss": 1.0, "val_top1": 0.5, "phase": "refit"},
)
SUMMARY = {"test_top1": 0.75, "best_epoch": 1, "worst_classes": [{"class": "crow"}]}


def logger_promises(part: Any, given: Mapping[str, Any]) -> Promises:
    """Return the promises of a logger's class with some options."""

    def on(promise: Callable[[Any, Mapping[str, Any]], None]) -> Callable[[], None]:
        return partial(promise, part, given)

    return {
        **option_promises(part, given, LoggerOptions),
        "it is made, or an ImportError says which package it lacks": on(_made),
        "it follows a run to its end": on(_follows),
    }


@contextmanager
def _logger(part: Any, given: Mapping[str, Any]) -> Iterator[Any]:
    """Make a logger in an empty working folder. Raises NotApplicable without its package."""
    options, before = build_options(part, given, LoggerOptions), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where some keep files
        try:
            try:
                made = part(options)
            except ImportError as error:
                raise NotApplicable(f"its package is missing: {error}") from error
            yield made
        finally:
            os.chdir(before)


def _made(part: Any, given: Mapping[str, Any]) -> None:
    with _logger(part, given):  # imports what it needs
        pass
    with unchanged_process("making it"), _logger(part, given):
        pass


def _follows(part: Any, given: Mapping[str, Any]) -> None:
    with _logger(part, given) as logger:
        run = Path("run").absolute()
        run.mkdir()
        try:
            logger.start(CONFIG, run)
        except Exception as error:
            raise NotApplicable(f"it does not start here: {describe(error)}") from error
        try:
            for step, row in enumerate(ROWS):
                logger.row(row, step)
            logger.finish(SUMMARY)
        except Exception as error:
            raise BrokenPromise(f"it fails in a run: {describe(error)}") from error
