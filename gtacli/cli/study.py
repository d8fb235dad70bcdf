"""`gta study`: a grid of runs, its state, table and figures."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gtacli.cli import console
from gtacli.cli.completion import completer, study_names
from gtacli.cli.lazy import group
from gtacli.cli.options import Json, Quiet, Verbose
from gtacli.errors import Interrupted

if TYPE_CHECKING:
    from gtacli.study.drive import Course
    from gtacli.study.folder import State, StudyFolder
    from gtacli.study.plan import Cell
    from gtacli.study.results import CellStatus, StudyRun, StudyTable
    from gtacli.study.states import StudyProgress
    from gtacli.study.work import CellTask

log = logging.getLogger(__name__)
app = group("study")
Folder = Annotated[Path, typer.Argument(help="folder of gta study run", show_default=False)]
Metric = Annotated[
    str | None,
    typer.Option(
        help="test_top1, val_top1, seconds, ...; of a command that follows: probe-knn:top1 "
        "[default: the command's main one]",
        metavar="NAME",
        show_default=False,
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        help="key of the grid [default: sampling_rate, or the first with several values]",
        metavar="KEY",
        show_default=False,
    ),
]
Format = Literal["text", "markdown", "latex", "csv", "json"]


@app.command()
def run(
    recipe: Annotated[
        str,
        typer.Argument(
            help="a shipped study, or a .toml file",
            show_default=False,
            autocompletion=completer(study_names),
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="folder of the study [default: runs/study-NAME]",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        str, typer.Option(help="where cells run: local, slurm, ray, or a plug-in's", metavar="NAME")
    ] = "local",
    jobs: Annotated[
        int | None,
        typer.Option(
            help="cells at a time [default: one a GPU, without a GPU one; slurm, ray: all]",
            metavar="N",
            min=1,
            show_default=False,
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="set a key of the study, such as fixed.epochs=2 or 'grid.seed=[0, 1]'; may be "
            "repeated",
            metavar="KEY.SUB=VALUE",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the cells, run none")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Run the cells of a study that are not finished.

    A study is a .toml file: a command, keys that are fixed, a grid of keys, and a table of keys for
    each method. A cell is one run of the command, in DIR/cells. What is finished is skipped, what
    was interrupted goes on, what has failed runs again. Several of these commands may work on one
    folder. The exit status is 1 if a cell has failed or no longer fits the study.
    """
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.config.study import change_study, find_study, read_study
    from gtacli.registry import EXECUTORS
    from gtacli.study.plan import check_settings, make_plan
    from gtacli.study.prepare import begin, open_executor

    found = find_study(recipe)
    text = change_study(found.text, found.label, sets or (), "--set")
    plan = make_plan(read_study(text, found.label), found.label)
    check_settings(plan, found.label)
    if dry_run:
        for cell in plan.cells.values():
            console.emit({"cell": cell.name, "command": cell.command}) if json else console.say(
                cell.name
            )
        return 0
    EXECUTORS.origin(executor)  # a wrong name is said before anything is read
    path = out or Path("runs") / f"study-{found.path.stem}"
    began = time.monotonic()
    folder = begin(path, text, plan)
    from gtacli.study.drive import drive

    log.info("%d cells in %s", len(plan.cells), path)
    with console.progress("cells", len(plan.cells)) as advance:
        course = drive(
            folder, open_executor(folder, executor, jobs), _Watcher(len(plan.cells), advance)
        )
    return _tell(folder, course, time.monotonic() - began, json)


class _Watcher:
    """A line of the log for each cell that has ended."""

    def __init__(self, cells: int, advance: Any) -> None:
        self.cells, self.advance, self.done = cells, advance, 0

    def started(self, cell: Cell) -> None:
        log.debug("%s starts", cell.name)

    def ended(self, cell: Cell, state: State, done: int, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f", about {console.duration(seconds_left)} left"
        log.info("%s %s (%d of %d%s)", cell.name, state.value, done, self.cells, left)
        self.advance(done - self.done)
        self.done = done


def _tell(folder: StudyFolder, course: Course, seconds: float, json: bool) -> int:
    """Print what a course has done, and return the exit status."""
    from gtacli.study.folder import State
    from gtacli.study.states import StudyProgress

    progress = StudyProgress(folder)
    result: StudyRun = {
        "study": str(folder.path),
        "cells": len(progress.states),
        "finished": sum(state is State.FINISHED for state in progress.states.values()),
        "ran": course.ran,
        "failed": course.failed,
        "changed": course.changed,
        "blocked": course.blocked,
        "seconds": round(seconds, 2),
    }
    for name, reason in course.failed.items():
        log.error("%s failed: %s (log: %s)", name, reason, folder.log(name))
    for name, reason in course.changed.items():
        log.warning("%s no longer fits the study: %s", name, reason)
    if course.changed:
        log.warning("`gta study clean %s` removes what no longer fits", folder.path)
    if course.blocked:
        log.warning("%d cells wait for these", len(course.blocked))
    if json:
        console.emit(result)
    elif result["finished"]:
        _print_table(progress, "text")
    if course.stopped:
        raise Interrupted(f"stopped; the same command goes on in {folder.path}")
    return 1 if course.failed or course.changed else 0


@app.command()
def status(
    folder: Folder, json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> None:
    """Print the state of every cell, also while the study runs."""
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.study.folder import StudyFolder
    from gtacli.study.status import statuses

    rows: list[CellStatus] = statuses(StudyFolder.existing(folder))
    if json:
        for row in rows:
            console.emit(row)
        return
    shown = [(r["cell"], r["state"], r["seconds"], r["reason"]) for r in rows]
    console.table(("cell", "state", "seconds", ""), shown)
    counts = {state: sum(r["state"] == state for r in rows) for state in _in_order(rows)}
    console.say(", ".join(f"{number} {state}" for state, number in counts.items()))


def _in_order(rows: list[CellStatus]) -> list[str]:
    return list(dict.fromkeys(row["state"] for row in rows))


@app.command()
def table(
    folder: Folder,
    format: Annotated[Format, typer.Option(help="form of the table")] = "text",
    metric: Metric = None,
    rows: Annotated[
        str, typer.Option(help="what makes the rows: method, or a key of the grid", metavar="KEY")
    ] = "method",
    columns: Columns = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="row that the others are tested against [default: the first]",
            metavar="METHOD",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Print the table of what is finished: mean and standard deviation over the seeds, and tests.

    Columns are a key of the grid, other keys make rows of their own. A paired t-test over the seeds
    compares each row with --against; only a row that is better than every other one with p < 0.05
    is marked as the best.
    """
    console.setup(quiet=quiet, verbose=verbose)
    form: Format = "json" if json else format
    _print_table(_progress(folder), form, metric, columns, against, rows)


def _progress(folder: Path) -> StudyProgress:
    from gtacli.study.folder import StudyFolder
    from gtacli.study.states import StudyProgress

    return StudyProgress(StudyFolder.existing(folder))


def _print_table(
    progress: StudyProgress,
    form: Format,
    metric: str | None = None,
    columns: str | None = None,
    against: str | None = None,
    rows: str = "method",
) -> None:
    from gtacli.study import formats
    from gtacli.study.table import make_table

    found: StudyTable = make_table(progress, metric, columns, against, rows)
    if form == "json":
        console.emit(found)
    elif form == "text":
        console.table(formats.header(found), formats.rows(found))
        for note in formats.notes(found):
            console.say(note)
    else:
        write = {
            "markdown": formats.to_markdown,
            "latex": formats.to_latex,
            "csv": formats.to_csv,
        }[form]
        console.write(write(found))


@app.command()
def plot(
    folder: Folder,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="FILE.png, .svg or .pdf", metavar="FILE", show_default=False
        ),
    ],
    metric: Metric = None,
    columns: Columns = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw a metric against a key of the grid, a line with a band for each method."""
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.study.plot import plot as draw
    from gtacli.study.table import make_table

    draw(make_table(_progress(folder), metric, columns), out)
    console.emit({"plot": str(out)}) if json else console.say(str(out))


@app.command()
def compare(
    folder: Folder,
    a: Annotated[str, typer.Argument(help="a row", metavar="A", show_default=False)],
    b: Annotated[str, typer.Argument(help="another row", metavar="B", show_default=False)],
    metric: Metric = None,
    columns: Columns = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare two rows seed by seed: difference, its 95 % confidence interval, paired t-test."""
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.study.metrics import is_fraction
    from gtacli.study.table import compare as run_comparison
    from gtacli.study.table import layout_of

    progress = _progress(folder)
    lines = run_comparison(progress, a, b, metric, columns)
    if json:
        for line in lines:
            console.emit(line)
        return
    layout = layout_of(progress, metric, columns)
    scale = 100 if is_fraction(layout.key) else 1
    number = lambda value: None if value is None else f"{scale * value:.2f}"  # noqa: E731
    console.table(
        (layout.columns or "", a, b, "difference", "low", "high", "p", "n"),
        [
            (
                *(line["column"], number(line["a"]), number(line["b"]), number(line["difference"])),
                *(number(line["low"]), number(line["high"])),
                *(None if line["p"] is None else f"{line['p']:.3g}", line["n"]),
            )
            for line in lines
        ],
    )


@app.command()
def clean(
    folder: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="remove nothing")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Remove cells that the study no longer has, that no longer fit it, or that have failed.

    Finished cells keep their weights, those that only choose values keep their result.
    """
    console.setup(quiet=quiet, verbose=verbose)
    from gtacli.study.clean import clean as remove
    from gtacli.study.folder import StudyFolder

    result = remove(StudyFolder.existing(folder), dry_run)
    if json:
        console.emit(result)
        return
    for name in result["removed"]:
        console.say(name)
    what = "would be removed" if dry_run else "removed"
    console.say(f"{len(result['removed'])} cells, {result['bytes'] / 1e6:,.0f} MB {what}")


@app.command(hidden=True)
def cell(folder: Folder, name: Annotated[str, typer.Argument(help="name of the cell")]) -> int:
    """Run one cell; what executors start."""
    console.setup()
    from gtacli.study.work import work

    return work(folder, name, _run_command)


def _run_command(task: CellTask) -> tuple[int, str]:
    """Run a cell's command as in a shell; return its exit status and what it printed."""
    from gtacli.cli import main

    words = [*task.cell.command.split(), "--recipe", str(task.recipe), "--out", str(task.out)]
    if isinstance(task.resume, str):
        words += ["--resume", task.resume]
    elif task.resume:
        words.append("--resume")
    if task.overwrite:
        words.append("--overwrite")
    with _printed() as read:
        status = main([*words, "--json"])
        return status, read()


@contextmanager
def _printed() -> Iterator[Any]:
    """Catch what this process and those that it starts print; yield a function that returns it."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        sys.stdout.flush()
        before = os.dup(1)

        def read() -> str:
            file.flush()
            file.seek(0)
            return file.read()

        os.dup2(file.fileno(), 1)
        try:
            with redirect_stdout(file):
                yield read
        finally:
            os.dup2(before, 1)
            os.close(before)
