"""Tests of commands whose standard streams are closed, full, or have lost their reader."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's devices")
LIST = ("recipes", "list")


def shell(tail: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = shlex.join([sys.executable, "-m", "gtacli", *words])
    return subprocess.run(
        ["sh", "-c", f"{command} {tail}"],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", [LIST, ("--help",), ("finetune", "--print-config")])
def test_a_full_stdout_is_one_line(words: tuple[str, ...]) -> None:
    done = shell(">/dev/full", *words)
    assert done.stderr == "error: stdout cannot be written: No space left on device\n"
    assert done.returncode == 3


@pytest.mark.parametrize("words", [LIST, ("--version",)])
def test_a_closed_stdout_is_told_before_anything_runs(words: tuple[str, ...]) -> None:
    done = shell(">&-", *words)
    assert done.stderr == "error: stdout is closed, where the results go; >/dev/null drops them\n"
    assert done.returncode == 2


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_a_lost_log_ends_nothing_and_does_not_reach_stdout(stderr: str) -> None:
    assert shell(stderr, *LIST).stdout == shell("", *LIST).stdout
    wrong = shell(stderr, "recipes", "show", "no-such-recipe")
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", "")


def test_a_reader_of_the_log_that_has_gone_ends_nothing() -> None:
    code = "import sys, time; time.sleep(0.3); sys.argv[0] = 'gta'; from gtacli.cli import main; "
    run = subprocess.Popen(
        [sys.executable, "-c", code + "sys.exit(main())", "recipes", "show", "no-such-recipe"],
        stderr=subprocess.PIPE,
    )
    assert run.stderr is not None
    run.stderr.close()
    assert run.wait(60) == 2


def test_a_closed_stdin_is_an_empty_one() -> None:
    done = shell("<&-", *LIST)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_removed_current_folder_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = shlex.join([sys.executable, "-m", "gtacli", *LIST])
    done = subprocess.run(
        ["bash", "-c", f"rmdir ../gone && {command}"],
        capture_output=True,
        text=True,
        cwd=gone,
        check=False,
    )
    assert done.stderr == "error: the current folder has been removed; change to another one\n"
    assert done.returncode == 2
