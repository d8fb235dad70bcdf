"""`gta report`: several runs on one page."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.options import Call, NullSeparated, config_command
from gtacli.config.report import ReportConfig
from gtacli.errors import UsageError

app = new_app()
LOG_INTERVAL = 30.0
"""Seconds between progress lines if there is no terminal."""
RunFolders = Annotated[list[str] | None, typer.Argument(help="run folders", metavar="RUN")]


@config_command(app, ReportConfig, "report", dry_run=False)
def report(
    config: ReportConfig,
    call: Call,
    runs: RunFolders = None,
    null: NullSeparated = False,
) -> int:
    """Show runs side by side on one page: results, curves, attention maps, mistakes.

    Runs of gta finetune and gta pretrain have a table and curves each, gta probe results a table.
    Of a study its finished cells are shown. Runs that differ only in their seed are averaged. The
    page is a single file that works offline. The models are loaded to compute attention maps and
    predictions on the test images.
    """
    folders = [path for run in runs or [] for path in _runs_of(run)]
    from gtacli.report.writer import write_report

    progress = partial(console.progress, lines=LOG_INTERVAL)
    with _quiet_loading(call.verbose):
        result = write_report(config, folders, progress, sys.stdin.buffer, null)
    if call.json:
        console.emit(result)
    else:
        console.say(result["report"])
    return 1 if result["failed"] else 0


def _runs_of(path: str) -> list[str]:
    """Return the run folders of a study's finished cells, or the folder itself."""
    if not (Path(path) / "study.toml").is_file():
        return [path]
    from gtacli.study.folder import StudyFolder
    from gtacli.study.states import StudyProgress

    progress = StudyProgress(StudyFolder(Path(path)))
    cells = [cell for cell in progress.plan.cells.values() if progress.result(cell) is not None]
    runs = [str(progress.folder.run(cell.name)) for cell in cells if not cell.tunes]
    if not runs:
        raise UsageError(f"no cell of the study in {path} is finished")
    return runs


@contextmanager
def _quiet_loading(verbose: bool) -> Iterator[None]:
    """Suppress per-model loading messages."""
    log = logging.getLogger("gtacli.models.loading")
    level = log.level
    if not verbose:
        log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
