"""The states of a study's cells as a list."""

from __future__ import annotations

from gtacli.study.folder import State, StudyFolder
from gtacli.study.results import CellStatus
from gtacli.study.states import StudyProgress


def statuses(folder: StudyFolder) -> list[CellStatus]:
    """Return a line for each cell, in the order in which they run."""
    progress = StudyProgress(folder)
    return [
        {
            "cell": cell.name,
            "command": cell.command,
            "state": progress.states[cell.name].value,
            "seconds": record.seconds if (record := progress.records.get(cell.name)) else None,
            "reason": reason(progress, cell.name),
        }
        for cell in progress.plan.cells.values()
    ]


def reason(progress: StudyProgress, name: str) -> str | None:
    """Return why a cell has failed, or what has changed since it was computed; else None."""
    if name in progress.problems:
        return progress.problems[name]
    record, state = progress.records.get(name), progress.states[name]
    if record is not None and state is State.FAILED:
        return record.error
    if state is not State.CHANGED:
        return None
    cell = progress.plan.cells[name]
    settings = None if record is None else progress.settings(cell)
    if record is None or settings is None:
        return "what it needs has changed"
    return next(iter(progress.changes(cell, record, settings)), "what it needs has changed")
