"""`gta study run`: the cells that are not finished."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.completion import completer, study_names
from gtacli.cli.options import Json, Quiet, Verbose
from gtacli.cli.study.show import print_table
from gtacli.errors import Interrupted

if TYPE_CHECKING:
    from gtacli.study.drive import Course
    from gtacli.study.folder import State, StudyFolder
    from gtacli.study.plan import Cell
    from gtacli.study.results import StudyRun

log = logging.getLogger(__name__)
Recipe = Annotated[
    str,
    typer.Argument(
        help="a shipped study, or a .toml file",
        show_default=False,
        autocompletion=completer(study_names),
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="folder of the study [default: runs/study-NAME]",
        metavar="DIR",
        show_default=False,
    ),
]
ExecutorName = Annotated[
    str, typer.Option(help="where cells run: local, slurm, ray, or a plug-in's", metavar="NAME")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        help="cells at a time [default: one a GPU, without a GPU one; slurm, ray: all]",
        metavar="N",
        min=1,
        show_default=False,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="set a key of the study, such as fixed.epochs=2 or 'grid.seed=[0, 1]'; may be "
        "repeated",
        metavar="KEY.SUB=VALUE",
        show_default=False,
    ),
]


def run(
    recipe: Recipe,
    out: Out = None,
    executor: ExecutorName = "local",
    jobs: Jobs = None,
    sets: Sets = None,
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
    from gtacli.study.plan import check_settings, make_plan
    from gtacli.study.prepare import begin, executor_options, open_executor

    found = find_study(recipe)
    text = change_study(found.text, found.label, sets or (), "--set")
    plan = make_plan(read_study(text, found.label), found.label)
    check_settings(plan, found.label)
    executor_options(plan, executor)  # wrong ones are reported before anything is read
    if dry_run:
        for cell in plan.cells.values():
            console.emit({"cell": cell.name, "command": cell.command}) if json else console.say(
                cell.name
            )
        return 0
    path = out or Path("runs") / f"study-{found.path.stem}"
    began = time.monotonic()
    folder = begin(path, text, plan)
    from gtacli.study.drive import drive

    log.info("%d cells in %s", len(plan.cells), path)
    with folder.driven(), console.progress("cells", len(plan.cells)) as advance:
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
        print_table(progress, "text")
    if course.stopped:
        raise Interrupted(f"stopped; the same command goes on in {folder.path}")
    return 1 if course.failed or course.changed else 0
