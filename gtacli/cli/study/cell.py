"""One cell of a study, in the process that an executor has started for it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.study.arguments import Folder

if TYPE_CHECKING:
    from gtacli.study.work import CellTask


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
