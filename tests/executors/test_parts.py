"""Tests of parts: which are started again, which are given up, and that all ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import pytest

from gtacli.errors import RunError
from gtacli.executors import parts
from gtacli.executors.base import Executor, ExecutorOptions, Job, was_ended
from gtacli.executors.parts import Part, run_parts

Ends = dict[str, list[int | Exception]]


class Ended:
    """A job that has ended."""

    def __init__(self, end: int | Exception) -> None:
        self.end = end

    def done(self) -> bool:
        return True

    def result(self) -> int:
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


class Planned(Executor[ExecutorOptions]):
    """An executor whose commands end as planned, by their first word; the last end is repeated."""

    def __init__(self, ends: Ends) -> None:
        super().__init__(ExecutorOptions(), None, Path())
        self.ends, self.ran, self.closed = ends, list[str](), False

    def submit(self, words: Sequence[str], log: Path) -> Job:
        self.ran.append(words[0])
        ends = self.ends[words[0]]
        end = ends.pop(0) if len(ends) > 1 else ends[0]
        with log.open("a") as file:
            file.write(f"working\nerror: the end is {end}\n")
        return Ended(end)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "POLL_SECONDS", 0)
    monkeypatch.setattr(parts, "ELSEWHERE_SECONDS", 0)


def run(
    tmp_path: Path,
    ends: Ends,
    at_work: Callable[[], bool] = lambda: False,
    stop: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Run a part for each key; return the order of the commands."""
    executor, ended = Planned(ends), []
    work = [Part(name, [name], tmp_path / name, at_work) for name in ends]
    try:
        run_parts(executor, work, stop, lambda: ended.append(0))
    finally:
        assert executor.closed
    assert len(ended) == len(ends) or stop()
    return executor.ran


def test_parts_that_were_killed_or_lost_are_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = ConnectionError("the node\n has gone")
    ends: Ends = {"a": [0], "b": [-9, -15, 0], "c": [lost, 1], "d": [130, 137, 0]}
    with caplog.at_level(logging.INFO, "gtacli"):
        assert sorted(run(tmp_path, ends)) == ["a", "b", "b", "b", "c", "c", "d", "d", "d"]
    assert "c was killed; it is started again (the node has gone)" in caplog.text


def test_a_part_that_fails_is_named_after_the_others_have_ended(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        run(tmp_path, {"a": [3], "b": [-9, 0], "c": [2]})
    text = f"a ended with status 3: the end is 3; its log is {tmp_path / 'a'} (2 of 3 failed)"
    assert caught.value.message == text


@pytest.mark.parametrize("long", [False, True])
def test_a_part_that_is_killed_again_and_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    """Not so if it has worked for long each time, as one that meets a queue's limit."""
    monkeypatch.setattr(parts, "LONG_SECONDS", -1 if long else 600)
    ends: Ends = {"a": [*[-9] * 7, 0]}
    if long:
        assert len(run(tmp_path, ends)) == 8
    else:
        with pytest.raises(RunError, match="a was killed 5 times: the end is -9; its log is"):
            run(tmp_path, ends)


def test_a_part_that_another_process_works_on_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    looks = count()
    with caplog.at_level(logging.INFO, "gtacli"):
        assert run(tmp_path, {"a": [0]}, lambda: next(looks) < 5) == ["a"]
    assert next(looks) == 6
    assert caplog.text.count("waiting for it") == 1


def test_a_part_that_another_process_has_begun_first_is_started_again(tmp_path: Path) -> None:
    """Its command is refused, as its journal has an owner: that of a command that was killed."""
    looks = iter([False, True, True, False])
    assert run(tmp_path, {"a": [2, 0]}, lambda: next(looks)) == ["a", "a"]


def test_an_engine_that_takes_no_job_is_one_line(tmp_path: Path) -> None:
    class Broken(Planned):
        def submit(self, words: Sequence[str], log: Path) -> Job:
            raise OSError("sbatch: error: Batch job\nsubmission failed")

    executor = Broken({})
    with pytest.raises(RunError, match="cannot start a: sbatch: error: Batch job submission"):
        run_parts(executor, [Part("a", ["a"], tmp_path / "a")], lambda: False)
    assert executor.closed


def test_a_stop_ends_it(tmp_path: Path) -> None:
    assert run(tmp_path, {"a": [0], "b": [0]}, stop=lambda: True) == []


def test_statuses_of_commands_that_were_ended() -> None:
    assert [was_ended(status) for status in (-9, -15, 130, 137, 143)] == [True] * 5
    assert [was_ended(status) for status in (0, 1, 2, 3, 75)] == [False] * 5
