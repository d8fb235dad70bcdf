"""The start of a study: its folder, the fingerprints of its datasets, its executor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gtacli.config.base import build
from gtacli.config.commands import WITHOUT_LABELS
from gtacli.data.spec import find_stream, load_dataset
from gtacli.data.unlabeled import load_images
from gtacli.errors import UsageError, errors_about
from gtacli.executors.base import Executor, ExecutorOptions
from gtacli.registry import EXECUTORS
from gtacli.runtime.drafts import content
from gtacli.study.folder import StudyFolder
from gtacli.study.plan import Cell, StudyPlan
from gtacli.study.work import data_specs


def begin(path: Path, text: str, plan: StudyPlan) -> StudyFolder:
    """Return the folder of a study, which begins in it or goes on.

    Raises UsageError for a folder with anything else, for another study whose cells are at work in
    it, and GtaError for a dataset that cannot be read.
    """
    folder = StudyFolder(path)
    if folder.file.is_file():
        _check_unused(folder, text)
    elif path.is_dir() and content(p.name for p in path.iterdir()):
        raise UsageError(f"{path} is not empty, and no study's folder", option="out")
    cells = plan.cells.values()
    specs = dict.fromkeys(spec for cell in cells for spec in data_specs(cell.settings))
    data = {}
    for spec in specs:
        with errors_about("data"):
            data[spec] = _fingerprint(spec, [c for c in cells if spec in data_specs(c.settings)])
    if folder.file.is_file():
        _check_unused(folder, text)  # reading the data may have taken long
    folder.begin(text, plan, data)
    return folder


def _check_unused(folder: StudyFolder, text: str) -> None:
    """Raise UsageError where commands or cells of another study are at work."""
    driven = folder.is_driven()  # removes what killed commands have left
    if folder.text == text:
        return
    running = [name for name in folder.plan.cells if folder.is_running(name)]
    if driven or running:
        which = f" ({running[0]})" if running else ""
        text = f"another study is at work in {folder.path}{which}; wait until it ends, or stop it"
        raise UsageError(text, option="out")


def _fingerprint(spec: str, cells: Sequence[Cell]) -> str:
    """Return the fingerprint of a dataset as the cells that use it read it."""
    if any(cell.settings.get("epoch_images") for cell in cells) and (stream := find_stream(spec)):
        return stream.fingerprint()
    if all(cell.command in WITHOUT_LABELS for cell in cells):
        return load_images(spec).fingerprint()
    several = any(cell.settings.get("multi_label") for cell in cells)
    return load_dataset(spec, several).fingerprint()


def executor_options(plan: StudyPlan, name: str) -> ExecutorOptions:
    """Return the options that a study has for an executor. Raises GtaError."""
    kind = EXECUTORS.load(name)
    return build(kind.Options, plan.file.executor.get(name, {}), f"executor.{name}")


def open_executor(folder: StudyFolder, name: str, jobs: int | None) -> Executor[Any]:
    """Return an executor with the options that the study has for it. Raises GtaError."""
    options = executor_options(folder.plan, name)
    return EXECUTORS.load(name)(options, jobs, folder.path / "executor")
