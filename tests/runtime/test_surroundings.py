"""Tests of the lines about variables that libraries read, and about bare systems."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from gtacli.errors import RunError, UsageError
from gtacli.registry import REGULARIZERS
from gtacli.runtime import surroundings
from gtacli.runtime.surroundings import explain_surroundings

LIBRARY = """import os
NAME = "ODD_LEVEL"
def read(value):
    return int(value)
LEVEL = read(os.environ.get(NAME, "1"))
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module that reads ODD_LEVEL when it is imported."""
    (tmp_path / "oddlibrary.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "oddlibrary", raising=False)
    return "oddlibrary"


def test_a_variable_that_a_library_refuses_is_named(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_LEVEL", "x")
    monkeypatch.setenv("OTHER_LEVEL", "x")
    with pytest.raises(ValueError, match="invalid literal") as caught:
        importlib.import_module(library)
    found = explain_surroundings(caught.value)
    assert isinstance(found, UsageError)
    assert str(found) == (
        "ODD_LEVEL: 'x' is refused by a library that reads it "
        "(invalid literal for int() with base 10: 'x')"
    )


def test_other_errors_are_not_explained(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_LEVEL", "7")
    module = importlib.import_module(library)
    monkeypatch.setenv("ODD_LEVEL", "x")
    with pytest.raises(ValueError, match="invalid literal") as caught:
        module.read("x")  # no import: the value is somebody else's
    assert explain_surroundings(caught.value) is None


def test_a_part_whose_library_refuses_a_variable(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_LEVEL", "x")
    with (
        REGULARIZERS.registered("odd", f"{library}:Odd"),
        pytest.raises(UsageError, match="ODD_LEVEL: 'x' is refused"),
    ):
        REGULARIZERS.load("odd")


def test_networks_that_cannot_be_compiled() -> None:
    from torch._inductor.exc import InductorError, InvalidCxxCompiler

    inner = InvalidCxxCompiler()
    found = explain_surroundings(InductorError(inner, None))
    assert isinstance(found, RunError)
    assert found.option == "compile"
    assert "No working C++ compiler" in found.message
    assert "Invalid" not in found.message
    assert found.message.endswith("; train without it")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
def test_a_system_without_its_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert explain_surroundings(RuntimeError("Unable to open /dev/urandom")) is None
    monkeypatch.setattr(surroundings, "_PARTS", ("/dev/null", str(tmp_path / "urandom")))
    found = explain_surroundings(RuntimeError("Unable to open /dev/urandom"))
    assert isinstance(found, RunError)
    assert found.message == (
        f"this system has no {tmp_path}/urandom, without which libraries fail "
        "(Unable to open /dev/urandom); mount /proc and /dev"
    )
