"""Tests of the environment variables that no command reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import gtacli
from gtacli.cli.environment import INTERNAL, SETTINGS


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("GTA_FINETUEN__LAM", "did you mean GTA_FINETUNE__LAM?"),
        ("GTA_FINETUNE_LAM", "did you mean GTA_FINETUNE__LAM?"),
        ("GTA_CACHES", "did you mean GTA_CACHE?"),
        ("GTA_NOTHING_AT_ALL", "known: GTA_CACHE, GTA_PLUGINS, "),
    ],
)
def test_a_variable_that_is_not_read_is_named(
    gta: Any, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "1")
    done = gta("finetune", "--model", "no-such-model", "--data", "demo", "--dry-run")
    assert f"warning: the environment variable {name} is not read; {hint}" in done.err


def test_variables_of_other_commands_are_no_mistake(
    gta: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GTA_PREDICT__TOP", "GTA_PROBE_KNN__K", "GTA_MAX_PIXELS", "GTA_CACHE"):
        monkeypatch.setenv(name, "1")
    assert "is not read" not in gta("finetune", "--model", "no-such-model", "--dry-run").err


def test_every_variable_of_the_source_is_known() -> None:
    files = Path(gtacli.__file__).parent.rglob("*.py")
    found = {n for file in files for n in re.findall(r"\"(GTA_[A-Z_]+)\"", file.read_text("utf-8"))}
    assert found - {"GTA_PROBE_"} == {*SETTINGS, *INTERNAL}
