"""Tests of `follow`, and of every command that uses it, on failures, stops and closed pipes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gtacli.cli import console
from gtacli.cli.follow import Ending, follow, lines
from gtacli.inference.stream import Failure, Stop


@pytest.fixture(autouse=True)
def fresh_console() -> None:
    console.stderr.cache_clear()
    console.setup()


def endless(stop: Stop) -> Iterator[int]:
    for i in count():
        if stop():
            return
        yield i


def test_a_failure_is_a_warning_and_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    results = [1, Failure("a.png", "no `out`"), 2]
    ending = follow(lambda stop: results, lines(True, str), True)
    assert ending == Ending(1, 2, 1)
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        1,
        {"image": "a.png", "error": "no --out"},
        2,
    ]
    assert captured.err == "warning: no --out\n"


def test_without_json_results_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    ending = follow(
        lambda stop: [1, Failure("a", "bad"), 2], lines(False, lambda n: f"n{n}"), False
    )
    assert (ending.status, capsys.readouterr().out) == (1, "n1\nn2\n")
    assert follow(lambda stop: [1], print, False).status == 0


def test_many_failures_are_a_few_warnings_and_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    failures = (Failure(f"{i}.png", f"{i}.png is empty") for i in range(1000))
    assert follow(lambda stop: failures, print, True) == Ending(1, 0, 1000)
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1000  # each one has its line of JSON
    assert captured.err.splitlines() == [
        *(f"warning: {i}.png is empty" for i in range(5)),
        "warning: 995 more like these, 1,000 in all",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_and_keeps_the_results(
    capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    shown: list[int] = []

    def show(result: int) -> None:
        shown.append(result)
        if result == 3:
            signal.raise_signal(number)

    ending = follow(endless, show, False, size=lambda result: 10, interrupted="stopped")
    assert ending == Ending(130, 40, 0)
    assert shown == [0, 1, 2, 3]
    assert capsys.readouterr().err == "warning: stopped\n"


def test_a_second_signal_stops_at_once() -> None:
    def show(result: int) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        follow(endless, show, False)


def test_progress_counts_results_and_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    class Bar:
        def __enter__(self) -> Callable[[int], None]:
            return steps.append

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(console, "progress", lambda *given: Bar())
    follow(lambda stop: [5, Failure("a", "bad"), 7], lambda n: None, False, label="x", size=int)
    assert steps == [5, 1, 7]


COMMANDS = {
    "predict": [],
    "attention-map": ["-o", "out"],
    "segment": ["-o", "out", "--backend", "dino"],
}
# Each is a process that imports torch: the others' only where there is time.
ONE_BY_DEFAULT = ["predict", *(pytest.param(c, marks=pytest.mark.slow) for c in [*COMMANDS][1:])]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_keeps_what_is_done(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for i in range(60):
        scene(tmp_path / "in" / f"{i:02}.png")
    emit = console.emit
    presses = iter([signal.SIGINT])

    def interrupted(result: Any) -> None:
        emit(result)
        for press in presses:
            signal.raise_signal(press)

    monkeypatch.setattr(console, "emit", interrupted)
    more = ["--batch-size", "1", "--device", "cpu", "--json"]
    done = gta(command, "in", "-m", str(tiny_model), *COMMANDS[command], *more)
    assert done.status == 130
    assert "warning: interrupted" in done.err
    images = [line["image"] for line in done.lines if "image" in line]
    assert images == [f"in/{i:02}.png" for i in range(len(images))]
    assert 1 <= len(images) < 60


@pytest.mark.parametrize("command", ONE_BY_DEFAULT)
def test_a_closed_pipe_ends_every_command_quietly(
    tiny_model: Path, tmp_path: Path, scene: Any, command: str
) -> None:
    for i in range(20):
        scene(tmp_path / "in" / f"{i:02}.png")
    words = [command, "in", "-m", str(tiny_model), *COMMANDS[command], "--device", "cpu", "--json"]
    code = f"import sys; from gtacli.cli import main; sys.exit(main({words!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["image"] == "in/00.png"
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 0
    assert "error" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ONE_BY_DEFAULT)
def test_a_command_that_waits_for_paths_can_be_stopped(
    tiny_model: Path, tmp_path: Path, scene: Any, command: str
) -> None:
    scene(tmp_path / "a.png")
    words = [command, "-", "-m", str(tiny_model), *COMMANDS[command], "--device", "cpu", "--json"]
    more = ["--batch-size", "1"]
    code = f"import sys; from gtacli.cli import main; sys.exit(main({[*words, *more]!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("a.png\n" * 40)  # more than what threads take before they answer
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["image"] == "a.png"
        process.send_signal(signal.SIGTERM)
        err = process.stderr.read()
    assert process.returncode == 130
    assert "warning: interrupted" in err
