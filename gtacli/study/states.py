"""The states of a study's cells, and the values that its tuning cells have chosen."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from gtacli.config.study import Tuning
from gtacli.errors import GtaError
from gtacli.runtime.atomic import to_json
from gtacli.study.folder import CellRecord, State, StudyFolder
from gtacli.study.metrics import is_lower_better, metric_of
from gtacli.study.plan import Cell, Settings, merged


class StudyProgress:
    """The progress of a study, as its folder was when this was made.

    Attributes:
        records: of the cells that have ended, by name.
        states: of all cells, by name.
        problems: why values cannot be chosen, by the cell that needs them.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.plan = folder.plan
        self.records: dict[str, CellRecord] = {}
        self.states: dict[str, State] = {}
        self.problems: dict[str, str] = {}
        # What a cell needs stands before it, and any tuning cell may choose for it.
        for cell in sorted(self.plan.cells.values(), key=lambda cell: not cell.tunes):
            self.update(cell)

    def update(self, cell: Cell) -> State:
        """Read the state of a cell anew."""
        record = self.folder.record(cell.name)
        self.records.pop(cell.name, None)
        if record is not None:
            self.records[cell.name] = record
        self.states[cell.name] = state = self._state(cell, record)
        return state

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """Return the result of a finished cell, else None."""
        if self.states[cell.name] is not State.FINISHED:
            return None
        return self.records[cell.name].result

    def settings(self, cell: Cell) -> Settings | None:
        """Return the settings of a cell with those that were chosen; None while they are open."""
        if not cell.candidates:
            return cell.settings
        names = [name for name, _ in cell.candidates]
        if self.is_borrowed(cell):
            names = [other.name for other in self.plan.cells.values() if _tunes_for(other, cell)]
        results = [self._finished(name) for name in names]
        if None in results:
            return None
        keys = cell.candidates[0][1]
        tried = [{key: self.plan.cells[name].settings[key] for key in keys} for name in names]
        try:
            found = [(v, r) for v, r in zip(tried, results, strict=True) if r is not None]
            best = choose(found, self.plan.file.tuning)
        except GtaError as error:
            self.problems[cell.name] = error.message
            return None
        self.problems.pop(cell.name, None)
        return merged(cell.settings, best)

    def is_borrowed(self, cell: Cell) -> bool:
        """Return whether a cell's values are chosen at the other places of the grid.

        At a low sampling rate no class has images enough to hold some out: its tuning cells have
        ended without the metric. Then all places of the method's that have it decide together.
        """
        metric = self.plan.file.tuning.metric
        results = [self._finished(name) for name, _ in cell.candidates]
        return bool(results) and all(r and metric_of(r, metric) is None for r in results)

    def _finished(self, name: str) -> dict[str, Any] | None:
        return self.result(self.plan.cells[name])

    def _state(self, cell: Cell, record: CellRecord | None) -> State:
        if self.folder.is_running(cell.name):
            return State.RUNNING
        needed = [self.states[name] for name in cell.needs]
        settings = self.settings(cell) if State.CHANGED not in needed else None
        if cell.name in self.problems:
            return State.FAILED
        if record is not None and record.result is not None:
            if settings is None:
                return State.WAITING if State.CHANGED not in needed else State.CHANGED
            same = not self.changes(cell, record, settings)
            return State.FINISHED if same else State.CHANGED
        if settings is None or any(state is not State.FINISHED for state in needed):
            return State.WAITING
        if record is not None:
            return State.FAILED
        return State.INTERRUPTED if self.folder.has_begun(cell.name) else State.READY

    def changes(self, cell: Cell, record: CellRecord, settings: Settings) -> list[str]:
        """Return what is other in the study now than when a cell was computed."""
        found = []
        before, now = record.settings, plain_settings(settings)
        keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        found += [f"{key} was {before.get(key)}" for key in keys]
        inputs = self.folder.inputs
        if record.command != cell.command:
            found.append(f"the command was {record.command}")
        if record.code != inputs.code:
            found.append("it was computed by other code or packages")
        for spec, fingerprint in record.data.items():
            if inputs.data.get(spec, fingerprint) != fingerprint:
                found.append(f"data {spec} was other")
        return found


def _tunes_for(other: Cell, cell: Cell) -> bool:
    return other.tunes and other.method == cell.method


def choose(results: Sequence[tuple[Settings, dict[str, Any]]], tuning: Tuning) -> Settings:
    """Return the values with the best mean metric over the tuning seeds; the first of equals.

    Args:
        results: the tried values with the result of each cell.

    Results without the metric do not count. Raises GtaError if none has it.
    """
    lower = tuning.lower_is_better
    if lower is None:
        lower = is_lower_better(tuning.metric)
    scores: dict[str, list[float]] = defaultdict(list)
    tried: dict[str, Settings] = {}
    for values, result in results:
        key = to_json(values, sort_keys=True)
        tried.setdefault(key, values)
        score = metric_of(result, tuning.metric)
        if score is not None:
            scores[key].append(-score if lower else score)
    if not scores:
        raise GtaError(
            f"no tuning cell has '{tuning.metric}', by which values are chosen: no class has the 3 "
            "images of which one can be held out; add a larger rate, or set tuning.metric"
        )
    return tried[max(scores, key=lambda key: fmean(scores[key]))]


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as a file holds them."""
    plain: dict[str, Any] = json.loads(to_json(dict(settings)))
    return plain
