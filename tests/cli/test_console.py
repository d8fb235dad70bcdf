"""Tests of the console: results on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable

import pytest

from gtacli.cli import console, main


@pytest.fixture(autouse=True)
def fresh_console() -> None:
    console.stderr.cache_clear()


def test_log_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("gtacli.somewhere")
    console.setup()
    log.debug("hidden")
    log.info("epoch 1 [bold] %s", "x" * 300)
    log.warning("odd")
    logging.getLogger("other").info("hidden")
    logging.getLogger("other").warning("strange")
    captured = capsys.readouterr()
    assert captured.out == ""
    expected = ["epoch 1 [bold] " + "x" * 300, "warning: odd", "warning: strange"]
    assert captured.err.splitlines() == expected


@pytest.mark.parametrize(
    ("switches", "lines"),
    [({"quiet": True}, ["warning: w"]), ({"verbose": True}, ["d", "i", "warning: w"])],
)
def test_quiet_and_verbose(
    capsys: pytest.CaptureFixture[str], switches: dict[str, bool], lines: list[str]
) -> None:
    console.setup(**switches)
    log = logging.getLogger("gtacli.somewhere")
    log.debug("d")
    log.info("i")
    log.warning("w")
    assert capsys.readouterr().err.splitlines() == lines


def test_emit_writes_valid_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit({"a": float("nan"), "b": [1, float("inf")], "c": "é", 3: (1.5,)})
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line) == {"a": None, "b": [1, None], "c": "é", "3": [1.5]}


def test_table_in_a_file_is_aligned_and_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("name", "n", "ok"), [("a" * 100, 1, True), ("b", 20, None)])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "n", "ok"]
    assert first == "a" * 100 + "   1  yes"
    assert second == "b" + " " * 99 + "  20"


def test_numbers_are_right_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Formatted numbers and empty cells too, but not text that only begins with a number."""
    rows = [("5.10", 7, "1.5x"), (None, None, "20"), ("-12.25", 123, "3")]
    console.table(("a", "b", "c"), rows)
    _, *lines = capsys.readouterr().out.splitlines()
    assert lines == ["  5.10    7  1.5x", "             20", "-12.25  123  3"]


def test_progress_writes_nothing_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("training", 3) as advance:
        advance()
        advance(2, note="loss 0.1")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_long_progress_logs_lines_in_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(console, "monotonic", lambda: now[0])
    console.setup()
    with console.progress("maps", 100_000, lines=30) as advance:
        for seconds, steps in (
            (10, 500),
            (25, 1000),
            (1, 8000),
            (40, 500),
            (31, 0),
            (3600, 90_000),
        ):
            now[0] += seconds
            advance(steps)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "maps: 1,500 of 100,000, 38 min left, 42.9 a second",
        "maps: 10,000 of 100,000, 7 min left, 207 a second",
        "maps: 10,000 of 100,000, 0 a second",
        "maps: 100,000 of 100,000, 0 s left, 25 a second",
    ]
    console.setup(quiet=True)
    with console.progress("maps", 10, lines=0) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    console.setup()
    with console.progress("training", 3) as advance:
        advance(1, note="loss 0.1")
        logging.getLogger("gtacli").info("a line between")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a line between" in captured.err
    assert "training loss 0.1" in captured.err


@pytest.mark.parametrize("speak", [lambda text: console.emit({"image": text}), console.say])
def test_a_path_outside_the_encoding_is_still_printed(
    speak: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    speak("é\udcff.jpg")
    speak("é.jpg")
    sys.stdout.flush()
    odd, plain = raw.getvalue().decode().splitlines()
    assert "\\udcff.jpg" in odd
    assert "é.jpg" in plain
    if odd.startswith("{"):
        assert json.loads(odd) == {"image": "é\udcff.jpg"}


EVIL = "a\x1b[2J\nb\r\x9b1m\u202eé.png"
ESCAPED = r"a\x1b[2J\nb\r\x9b1m\u202eé.png"


@pytest.mark.parametrize("terminal", [False, True])
def test_control_characters_of_results_are_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "200")
    console.say(f"{EVIL}\tcat")
    console.table(("image", "class"), [(EVIL, "cat")])
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"{ESCAPED}\tcat"
    assert out.count("\n") == 3
    assert out.count(ESCAPED) == 2


def test_control_characters_of_log_lines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    console.setup()
    log = logging.getLogger("gtacli.somewhere")
    try:
        raise ValueError(EVIL)
    except ValueError:
        log.warning("cannot read %s", EVIL, exc_info=True)
    first, *trace = capsys.readouterr().err.splitlines()
    assert first == f"warning: cannot read {ESCAPED}"
    assert trace[0].startswith("Traceback")
    assert "\x1b" not in "".join(trace)


def test_control_characters_of_errors_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["report", "a\x1b[2J"], ["report", "-o", "x", "a\x9b2J\u202e", "-v"]):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert not {"\x1b", "\x9b", "\u202e"} & set(err)
        assert err.startswith("error: ")
        assert "a\\x" in err


def test_control_characters_in_json_are_escaped_and_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.emit({"image": EVIL})
    out = capsys.readouterr().out
    assert not {"\x1b", "\x9b", "\u202e"} & set(out)
    assert "é" in out
    assert json.loads(out) == {"image": EVIL}
