"""Exit statuses, one-line errors, and start-up without heavy imports."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from gtacli import __version__
from gtacli.cli import lazy, main
from gtacli.errors import GtaError, Interrupted, RunError


def test_help_lists_every_command_and_loads_none() -> None:
    code = (
        "import sys; from gtacli.cli import main; main(['--help']);"
        "heavy = {'torch', 'timm', 'numpy', 'pydantic', 'gtacli.cli.models', 'gtacli.config'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "[]"
    for name, (_, short) in lazy.COMMANDS.items():
        assert f"  {name}" in run.stdout
        assert short in run.stdout


def test_every_command_has_a_module(gta: Any) -> None:
    for name in lazy.COMMANDS:
        shown = gta(name, "--help")
        assert shown.status == 0, shown.err
        assert f"Usage: gta {name}" in shown.out


def test_version(gta: Any) -> None:
    assert gta("--version").out == f"gta {__version__}\n"


def test_a_group_without_a_command_prints_its_help(gta: Any) -> None:
    assert "Commands:" in gta().out
    assert "list" in gta("plugins").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["finetun"],
            r"error: no such command 'finetun'\. Did you mean 'finetune'\?; see gta --help",
        ),
        (["--nope"], r"error: no such option:? '?--nope'?; see gta --help"),
        (["plugins", "frob"], "error: no such command 'frob'; see gta plugins --help"),
        (["models", "list", "a", "b"], "error: got unexpected extra argument"),
    ],
)
def test_wrong_usage_is_one_line(gta: Any, words: list[str], message: str) -> None:
    wrong = gta(*words)
    assert wrong.status == 2
    assert wrong.out == ""
    assert re.match(message, wrong.err)  # the wording of some is that of the installed click
    assert wrong.err.count("\n") == 1


def raising(error: BaseException) -> Any:
    app = typer.Typer(add_completion=False)

    @app.command()
    def boom(verbose: bool = typer.Option(False, "-v", "--verbose")) -> None:
        raise error

    return type("module", (), {"app": app})


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function that adds a command `boom`, which raises an error."""

    def put(error: BaseException) -> None:
        monkeypatch.setitem(sys.modules, "boom_module", raising(error))
        monkeypatch.setitem(lazy.COMMANDS, "boom", ("boom_module", "Boom."))

    return put


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (GtaError("no\nsuch thing"), 2, "error: no such thing\n"),
        (RunError("step 3"), 3, "error: step 3\n"),
        (Interrupted("saved"), 130, "error: saved\n"),
        (KeyboardInterrupt(), 130, None),
        (ValueError("odd"), 3, "error: ValueError: odd (--verbose shows where)\n"),
        (
            PermissionError(13, "Permission denied", "x/y"),
            3,
            "error: x/y: permission denied (--verbose shows where)\n",
        ),
        (
            OSError(36, "File name too long", "y" * 900),
            2,
            f"error: {'y' * 100}…{'y' * 40}: file name too long (--verbose shows where)\n",
        ),
    ],
)
def test_exit_statuses(
    gta: Any, command: Any, error: BaseException, status: int, line: str | None
) -> None:
    command(error)
    result = gta("boom")
    assert result.status == status
    assert result.out == ""
    if line is not None:
        assert result.err == line


def test_verbose_shows_the_traceback_of_an_unexpected_error(gta: Any, command: Any) -> None:
    command(ValueError("odd"))
    shown = gta("boom", "-v")
    assert shown.status == 3
    assert "Traceback" in shown.err
    assert shown.err.endswith("error: ValueError: odd\n")
    command(GtaError("expected"))
    assert gta("boom", "-v").err == "error: expected\n"


def test_a_closed_pipe_is_no_error() -> None:
    code = (
        "import sys; from gtacli.cli import main, console\n"
        "from gtacli.cli import recipes\n"
        "recipes.console.table = lambda *a: [print('x' * 999) for _ in range(999)]\n"
        "sys.exit(main(['recipes', 'list']))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.read(10)
    run.stdout.close()
    assert run.stderr.read() == ""
    assert run.wait() in (0, 1)
    run.stderr.close()


def test_main_reads_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []  # whose handlers of signals would stay in the process of the tests
    monkeypatch.setattr("gtacli.runtime.interrupts.end_on_signal", ends.append)
    monkeypatch.setattr(sys, "argv", ["gta", "recipes", "list"])
    assert main() == 0
    assert ends == [0]


def test_a_full_memory_is_one_line_with_the_size_that_fits(
    gta: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 9.00 GiB")

    monkeypatch.setattr("gtacli.runtime.devices.choose_compute", fail)
    done = gta("predict", "x.png", "-m", "demo", "--batch-size", "48")
    assert done.status == 3
    assert done.err == (
        "error: the memory of the GPU is full with 48 images at a time; use --batch-size 24\n"
    )
