"""A study of a command that is not run: results are written as its cells would write them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gtacli.config.study import read_study
from gtacli.executors.base import Executor, ExecutorOptions, Job
from gtacli.study.code import code_digest
from gtacli.study.folder import CellRecord, StudyFolder
from gtacli.study.plan import make_plan
from gtacli.study.states import StudyProgress

STUDY = """
command = "finetune"
[fixed]
data = "demo"
model = "demo"
[grid]
seed = [0, 1, 2]
sampling_rate = [15, 100]
[method.none]
regularizer = ["none"]
[method.gta]
regularizer = ["gta"]
[method.gta.tune]
lam = [0.01, 0.1]
"""
Result = Callable[[str], Mapping[str, Any] | None]


def begin(path: Path, text: str = STUDY) -> StudyFolder:
    """Begin a study in a folder, as `gta study run` does; the datasets are not read."""
    folder = StudyFolder(path)
    folder.begin(text, make_plan(read_study(text, "s.toml"), "s.toml"), {"demo": "D"})
    return StudyFolder(path)


def finish(folder: StudyFolder, name: str, result: Mapping[str, Any] | None, **other: Any) -> None:
    """Record the end of a cell; with None it has failed."""
    cell = folder.plan.cells[name]
    values: dict[str, Any] = {
        "command": cell.command,
        "settings": dict(StudyProgress(folder).settings(cell) or cell.settings),
        "code": code_digest(),
        "data": {"demo": "D"},
        "status": 0 if result is not None else 3,
        "result": None if result is None else dict(result),
        "error": None if result is not None else "it broke",
        "seconds": 1.0,
        **other,
    }
    folder.write_record(name, CellRecord(**values))


def finish_all(folder: StudyFolder, result: Result) -> None:
    """Record the end of all cells, in order."""
    for name in folder.plan.cells:
        finish(folder, name, result(name))


class Ended:
    """A job that has ended."""

    def __init__(self, status: int) -> None:
        self.status = status

    def done(self) -> bool:
        return True

    def result(self) -> int:
        return self.status


class Pretend(Executor[ExecutorOptions]):
    """An executor whose commands are a function of this process."""

    def __init__(self, slots: int | None, command: Callable[[Path, str], int]) -> None:
        super().__init__(ExecutorOptions(), slots, Path(os.devnull))
        self.slots, self.command = slots, command
        self.ran: list[str] = []
        self.closed = False

    def submit(self, words: Sequence[str], log: Path) -> Job:
        group, verb, folder, name = words
        assert (group, verb) == ("study", "cell")
        self.ran.append(name)
        return Ended(self.command(Path(folder), name))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return begin(tmp_path / "study")
