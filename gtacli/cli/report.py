"""`gta report`: several runs on one page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.lazy import new_app
from gtacli.cli.options import NullSeparated, config_command
from gtacli.config.report import ReportConfig
from gtacli.errors import GtaError, UsageError
from gtacli.runtime.repeated import hide_repeated

if TYPE_CHECKING:
    from gtacli.report.sections import TableSection
    from gtacli.study.states import StudyProgress

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
    Of a study its table, figure and finished cells are shown. Runs that differ only in their seed
    are averaged. The page is a single file that works offline. The models are loaded to compute
    attention maps and predictions on the test images; --confusion writes their confusion matrices.
    """
    folders, sections = _studies_and_runs(runs or [])
    from gtacli.report.writer import write_report

    progress = partial(console.progress, lines=LOG_INTERVAL)
    with hide_repeated("models.loading"):
        result = write_report(config, folders, progress, sys.stdin.buffer, null, sections)
    if call.json:
        console.emit(result)
    else:
        for file in (result["report"], *result["confusion"]):
            console.say(file)
    return 1 if result["failed"] else 0


def _studies_and_runs(paths: Sequence[str]) -> tuple[list[str], list[TableSection]]:
    """Return the run folders, of a study those of its finished cells, and the studies' sections."""
    folders: list[str] = []
    sections: list[TableSection] = []
    for path in paths:
        if not (Path(path) / "study.toml").is_file():
            folders.append(path)
            continue
        from gtacli.study.folder import StudyFolder
        from gtacli.study.states import StudyProgress

        progress = StudyProgress(StudyFolder(Path(path)))
        cells = [cell for cell in progress.plan.cells.values() if progress.result(cell) is not None]
        finished = [str(progress.folder.run(cell.name)) for cell in cells if not cell.tunes]
        if not finished:
            raise UsageError(f"no cell of the study in {path} is finished")
        folders += finished
        sections.append(_section(path, progress))
    return folders, sections


def _section(path: str, progress: StudyProgress) -> TableSection:
    """Return the table of a study with its figure, where matplotlib is installed."""
    from gtacli.report.sections import TableSection
    from gtacli.study import formats
    from gtacli.study.plot import draw
    from gtacli.study.table import make_table

    table = make_table(progress)
    notes, figure = formats.notes(table), None
    try:
        figure = draw(table, "svg")
    except GtaError as error:
        notes.append(f"no figure: {error.message}")
    title = f"Study {Path(path).resolve().name}"
    return TableSection(title, formats.header(table), formats.rows(table), notes, figure)
