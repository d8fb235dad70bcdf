"""`gta report`: several runs on one page."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import typer

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Call, NullSeparated, config_command
from gtacli.config.report import ReportConfig

app = new_app()
PACE = 30.0
"""Seconds from one line on the test images to the next, where there is no terminal."""
Runs = Annotated[list[str] | None, typer.Argument(help="run folders", metavar="RUN")]


@config_command(app, ReportConfig, "report", dry_run=False)
def report(
    config: ReportConfig,
    call: Call,
    runs: Runs = None,
    null: NullSeparated = False,
) -> int:
    """Show runs side by side on one page: results, curves, attention maps, mistakes.

    Runs of gta finetune and gta pretrain, each with a table and curves of their own. Runs that
    differ in nothing but their seed are one setting. The page is a single file that needs no
    network. The networks are loaded for the maps and for their answers on the test images.
    """
    from gtacli.report.make import make_report

    progress = partial(console.progress, lines=PACE)
    with _hushed(logging.getLogger("gtacli.models.loading"), call.verbose):
        result = make_report(config, runs or [], progress, sys.stdin.buffer, null)
    if call.json:
        console.emit(result)
    else:
        console.say(result["report"])
    return 1 if result["failed"] else 0


@contextmanager
def _hushed(log: logging.Logger, verbose: bool) -> Iterator[None]:
    """Without a line for each of the many networks that are loaded."""
    level = log.level
    if not verbose:
        log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
