"""The course of a study: cells are handed to an executor as soon as they can run."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

from gtacli.errors import reason_of_library
from gtacli.executors.base import MOST_STARTS, Executor, Job, was_ended
from gtacli.runtime.interrupts import StopSignal
from gtacli.runtime.ownership import remove_dead_lock
from gtacli.study.folder import State, StudyFolder
from gtacli.study.plan import Cell
from gtacli.study.states import StudyProgress
from gtacli.study.status import reason
from gtacli.study.work import BUSY

log = logging.getLogger(__name__)
POLL_SECONDS = 0.1
ELSEWHERE_SECONDS = 5.0
"""Time between two looks at cells that other processes run."""


class Watcher(Protocol):
    """The interface of what follows the course of a study."""

    def started(self, cell: Cell) -> None:
        """Tell that a cell was handed to the executor."""

    def ended(self, cell: Cell, state: State, done: int, seconds_left: float | None) -> None:
        """Tell that a cell has ended; `done` cells of all are finished."""


@dataclass
class Course:
    """The account of what a course has done.

    Attributes:
        ran: cells that were run to their end here.
        failed: cells that ended with an error, with the line.
        changed: finished cells that no longer fit the study, with the reason.
        blocked: cells that wait for one of these.
        stopped: whether a signal ended it.
    """

    ran: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    stopped: bool = False


def drive(folder: StudyFolder, executor: Executor[Any], watcher: Watcher) -> Course:
    """Run all cells that are not finished; go on after one that fails.

    Failed cells of an earlier course are run again. The first signal ends the running cells, which
    save their states.
    """
    return _Driver(folder, executor, watcher).run()


class _Driver:
    def __init__(self, folder: StudyFolder, executor: Executor[Any], watcher: Watcher) -> None:
        self.folder, self.executor, self.watcher = folder, executor, watcher
        self.progress = StudyProgress(folder)
        self.jobs: dict[str, Job] = {}
        self.starts: dict[str, int] = {}
        self.saved: dict[str, int] = {}
        self.course = Course()
        self.looked = 0.0
        self.waits = False

    def run(self) -> Course:
        for name in self.progress.states:
            remove_dead_lock(self.folder.cells, name)
        with StopSignal() as stop:
            try:
                while not stop.requested and self._step():
                    time.sleep(POLL_SECONDS)
            finally:
                if self.jobs:
                    log.info("ending %d running cells", len(self.jobs))
                self.executor.close()
        for name in self.jobs:
            self.progress.update(self.progress.plan.cells[name])
        self.course.stopped = stop.requested
        self._account()
        return self.course

    def _step(self) -> bool:
        """Collect what has ended, hand out what can run; return whether the study goes on."""
        for name in [name for name, job in self.jobs.items() if job.done()]:
            self._collect(name)
        if time.monotonic() - self.looked > ELSEWHERE_SECONDS:
            self.looked = time.monotonic()
            self._look_elsewhere()
        for cell in self._next():
            self._start(cell)
        elsewhere = sum(self._runs_elsewhere(name) for name in self.progress.states)
        if elsewhere and not self.jobs and not self.waits:
            log.info("waiting for cells that other processes run: %d", elsewhere)
            self.waits = True
        return bool(self.jobs) or bool(elsewhere)

    def _next(self) -> list[Cell]:
        """Return the cells to start now: of an early seed first, of these the longest first."""
        room = None if self.executor.slots is None else self.executor.slots - len(self.jobs)
        if room == 0:
            return []
        open_states = (State.READY, State.INTERRUPTED, State.FAILED)
        ready = [
            cell
            for cell in self.progress.plan.cells.values()
            if cell.name not in self.jobs
            and cell.name not in self.course.failed
            and cell.name not in self.progress.problems
            and self.progress.states[cell.name] in open_states
        ]
        seconds = self._expected()
        ready.sort(key=lambda cell: (cell.turn[0], -seconds.get(cell.repeated, 0.0), cell.turn[1]))
        return ready[:room]

    def _expected(self) -> dict[str, float]:
        """Return the mean run time of finished cells by what they share but for the seed."""
        found: dict[str, list[float]] = {}
        for name, record in self.progress.records.items():
            if record.result is not None:
                found.setdefault(self.progress.plan.cells[name].repeated, []).append(record.seconds)
        return {key: fmean(values) for key, values in found.items()}

    def _start(self, cell: Cell) -> None:
        saved = self.folder.saved_at(cell.name)
        if saved > self.saved.get(cell.name, 0):  # it gets on, such as from one time limit to next
            self.starts[cell.name] = 0
        self.saved[cell.name] = saved
        self.starts[cell.name] = self.starts.get(cell.name, 0) + 1
        words = ["study", "cell", str(self.folder.path), cell.name]
        self.jobs[cell.name] = self.executor.submit(words, self.folder.log(cell.name))
        self.progress.states[cell.name] = State.RUNNING
        self.watcher.started(cell)

    def _collect(self, name: str) -> None:
        """Take note of how a cell has ended."""
        cell, job = self.progress.plan.cells[name], self.jobs.pop(name)
        try:
            status, lost = job.result(), ""
        except Exception as error:  # of the engine: the job was cancelled, or its node was lost
            status, lost = -1, reason_of_library(error)
        state = self.progress.update(cell)
        record = self.progress.records.get(name)
        if state is State.FINISHED:
            self.course.ran.append(name)
        elif state is State.FAILED and record is not None:
            self.course.failed[name] = record.error or f"status {record.status}"
        elif state not in (State.RUNNING, State.CHANGED) and self._is_over(name, status):
            self.course.failed[name] = lost or self._killed(name, status)
        for other in self.progress.plan.followers(name):
            self.progress.update(other)
        if cell.tunes:  # values may be chosen at other places too
            self._update_waiting(cell.method)
        states = self.progress.states.values()
        done = sum(state is State.FINISHED for state in states)
        self.watcher.ended(cell, state, done, self._seconds_left())

    def _is_over(self, name: str, status: int) -> bool:
        """Return whether a cell without a record is not to be started again."""
        interrupted = was_ended(status) or status == BUSY
        return not interrupted or self.starts[name] >= MOST_STARTS

    def _killed(self, name: str, status: int) -> str:
        line = self.folder.last_line(name)
        if line and status >= 0:
            return line
        if was_ended(status) or status == BUSY:
            return f"it was killed {self.starts[name]} times"
        return f"it ended with status {status}"

    def _runs_elsewhere(self, name: str) -> bool:
        return name not in self.jobs and self.progress.states[name] is State.RUNNING

    def _look_elsewhere(self) -> None:
        """Read the states of the cells that other processes run, and of those that wait."""
        for name, cell in self.progress.plan.cells.items():
            waits = self.progress.states[name] is State.WAITING
            if self._runs_elsewhere(name) or waits:
                self.progress.update(cell)

    def _update_waiting(self, method: str) -> None:
        for name, cell in self.progress.plan.cells.items():
            if cell.method == method and self.progress.states[name] is State.WAITING:
                self.progress.update(cell)

    def _seconds_left(self) -> float | None:
        """Estimate the time that is left, from cells that have ended."""
        seconds = self._expected()
        if not seconds:
            return None
        mean, left = fmean(seconds.values()), 0.0
        for cell in self.progress.plan.cells.values():
            if self.progress.states[cell.name] not in (State.FINISHED, State.CHANGED):
                left += seconds.get(cell.repeated, mean)
        return left / max(1, len(self.jobs) + 1)

    def _account(self) -> None:
        """List what stays undone, and why."""
        self.course.failed |= self.progress.problems
        for name, state in self.progress.states.items():
            if state is State.CHANGED:
                self.course.changed[name] = reason(self.progress, name) or ""
            elif state is State.WAITING and not self.course.stopped:
                self.course.blocked.append(name)
