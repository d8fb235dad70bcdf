from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path

import pytest

from gtacli.runtime.ownership import owned
from gtacli.study import drive as module
from gtacli.study.drive import MOST_STARTS, Course, drive
from gtacli.study.folder import State, StudyFolder
from gtacli.study.plan import Cell
from gtacli.study.work import BUSY

from .conftest import STUDY, Pretend, begin, finish, finish_all

RESULT = {"val_top1": 0.5, "test_top1": 0.5}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(module, "ELSEWHERE_SECONDS", 0.01)


class Nobody:
    def started(self, cell: Cell) -> None: ...

    def ended(self, cell: Cell, state: State, done: int, seconds_left: float | None) -> None: ...


def succeed(path: Path, name: str) -> int:
    finish(StudyFolder(path), name, RESULT)
    return 0


def course_of(folder: StudyFolder, executor: Pretend) -> Course:
    course = drive(StudyFolder(folder.path), executor, Nobody())
    assert executor.closed
    return course


def test_every_cell_runs_once_and_after_what_it_needs(folder: StudyFolder) -> None:
    executor = Pretend(1, succeed)
    course = course_of(folder, executor)
    assert executor.ran == course.ran
    assert sorted(executor.ran) == sorted(folder.plan.cells)
    for cell in folder.plan.cells.values():
        after = executor.ran.index(cell.name)
        assert all(executor.ran.index(name) < after for name in cell.needs)
    again = Pretend(1, succeed)
    assert course_of(folder, again).ran == []
    assert again.ran == []


def test_a_whole_table_of_the_first_seed_comes_early(folder: StudyFolder) -> None:
    executor = Pretend(1, succeed)
    course_of(folder, executor)
    seeds = [name.rsplit("=", 1)[1] for name in executor.ran]
    assert [seed for seed in seeds if seed != "1000"] == ["0"] * 4 + ["1"] * 4 + ["2"] * 4


def test_of_a_later_seed_the_longest_cells_come_first(folder: StudyFolder) -> None:
    def with_time(path: Path, name: str) -> int:
        finish(StudyFolder(path), name, RESULT, seconds=9.0 if "=100," in name else 1.0)
        return 0

    executor = Pretend(1, with_time)
    course_of(folder, executor)
    assert ["=100," in name for name in executor.ran[-4:]] == [True, True, False, False]


def test_a_failed_cell_stops_only_what_needs_it_and_runs_again_later(folder: StudyFolder) -> None:
    bad = "gta,sampling_rate=15,tune,lam=0.1,seed=1000"

    def fail(path: Path, name: str) -> int:
        if name != bad:
            return succeed(path, name)
        finish(StudyFolder(path), name, None)
        return 3

    executor = Pretend(1, fail)
    course = course_of(folder, executor)
    assert course.failed == {bad: "it broke"}
    assert course.blocked == [f"gta,sampling_rate=15,seed={seed}" for seed in range(3)]
    assert executor.ran.count(bad) == 1
    assert len(course.ran) == len(folder.plan.cells) - 4
    assert len(course_of(folder, Pretend(1, succeed)).ran) == 4


def test_a_killed_cell_starts_again_but_not_for_ever(folder: StudyFolder) -> None:
    first, second = "none,sampling_rate=15,seed=0", "none,sampling_rate=100,seed=0"
    starts = {first: 0}

    def die(path: Path, name: str) -> int:
        if name == second:
            return -signal.SIGKILL
        if name == first and (starts.update({first: starts[first] + 1}) or starts[first] < 3):
            return 130
        return succeed(path, name)

    executor = Pretend(1, die)
    course = course_of(folder, executor)
    assert executor.ran.count(first) == 3
    assert first in course.ran
    assert executor.ran.count(second) == MOST_STARTS
    assert course.failed == {second: f"it was killed {MOST_STARTS} times"}


def test_a_cell_that_another_process_runs_is_waited_for_and_not_run(folder: StudyFolder) -> None:
    name = "none,sampling_rate=15,seed=0"
    other = owned(folder.cells, "study", part=name, shared=True)
    other.__enter__()

    def busy(path: Path, cell: str) -> int:
        if cell == "none,sampling_rate=100,seed=2":  # the other one finishes meanwhile
            finish(StudyFolder(path), name, RESULT)
            other.__exit__(None, None, None)
        return succeed(path, cell)

    executor = Pretend(1, busy)
    course = course_of(folder, executor)
    assert name not in executor.ran
    assert not course.failed
    assert len(course.ran) == len(folder.plan.cells) - 1


def test_waiting_for_cells_of_others_is_said_once(
    folder: StudyFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """Only their number had been written, for as long as they ran."""
    name = "none,sampling_rate=15,seed=0"
    other = owned(folder.cells, "study", part=name, shared=True)
    other.__enter__()

    def end() -> None:
        finish(folder, name, RESULT)
        other.__exit__(None, None, None)

    timer = threading.Timer(1.0, end)
    with caplog.at_level(logging.INFO, module.log.name):
        timer.start()
        course_of(folder, Pretend(1, succeed))
    timer.join()
    told = [record.message for record in caplog.records if "waiting" in record.message]
    assert told == ["waiting for cells that other processes run: 1"]


def test_two_that_start_a_cell_at_once_run_it_once(folder: StudyFolder) -> None:
    name = "none,sampling_rate=15,seed=0"

    def late(path: Path, cell: str) -> int:
        if cell != name:
            return succeed(path, cell)
        finish(StudyFolder(path), name, RESULT)  # the other one was faster
        return BUSY

    course = course_of(folder, Pretend(None, late))
    assert not course.failed


def test_changed_cells_are_named_and_left_alone(folder: StudyFolder) -> None:
    name = "none,sampling_rate=15,seed=0"
    finish_all(folder, lambda cell: RESULT)
    finish(folder, name, RESULT, code="other")
    executor = Pretend(1, succeed)
    course = course_of(folder, executor)
    assert executor.ran == []
    assert course.changed == {name: "it was computed by other code or packages"}


def test_a_cell_that_other_code_has_computed_meanwhile_has_changed_and_not_failed(
    folder: StudyFolder,
) -> None:
    name = "none,sampling_rate=15,seed=0"

    def upgraded(path: Path, cell: str) -> int:
        finish(StudyFolder(path), cell, RESULT, **({"code": "newer"} if cell == name else {}))
        return 0

    course = course_of(folder, Pretend(1, upgraded))
    assert course.failed == {}
    assert course.changed == {name: "it was computed by other code or packages"}


def test_a_signal_ends_the_course(folder: StudyFolder) -> None:
    def stop(path: Path, name: str) -> int:
        if "seed=0" in name:
            signal.raise_signal(signal.SIGTERM)
            return 130
        return succeed(path, name)

    executor = Pretend(1, stop)
    course = course_of(folder, executor)
    assert course.stopped
    assert len(executor.ran) == 1
    assert not course.failed


def test_a_study_that_has_grown_runs_what_is_new(tmp_path: Path) -> None:
    course_of(begin(tmp_path), Pretend(1, succeed))
    grown = begin(tmp_path, STUDY.replace("[0, 1, 2]", "[0, 1, 2, 3]"))
    assert len(course_of(grown, Pretend(1, succeed)).ran) == 4


def test_a_cell_that_gets_on_from_one_time_limit_to_the_next_is_started_again(
    folder: StudyFolder,
) -> None:
    name = "none,sampling_rate=15,seed=0"
    left = [2 * MOST_STARTS]

    def limited(path: Path, cell: str) -> int:
        if cell != name or not left[0]:
            return succeed(path, cell)
        left[0] -= 1
        folder.run(name).mkdir(parents=True, exist_ok=True)
        state = folder.run(name) / "state.pt"
        state.touch()
        os.utime(state, ns=(0, 10**18 - left[0]))
        return -signal.SIGKILL

    executor = Pretend(1, limited)
    course = course_of(folder, executor)
    assert name in course.ran
    assert executor.ran.count(name) == 2 * MOST_STARTS + 1


def test_cells_whose_values_other_places_choose_run_at_last(folder: StudyFolder) -> None:
    def few(path: Path, name: str) -> int:
        held_out = "=15," not in name
        result = {"val_top1": 0.5 if held_out else None, "test_top1": 0.5}
        finish(StudyFolder(path), name, result)
        return 0

    course = course_of(folder, Pretend(1, few))
    assert len(course.ran) == len(folder.plan.cells)
