"""Tests of the behavior that all commands on images share."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Gta = Callable[..., Any]
COMMANDS = ("attention-map", "segment", "probe attention", "probe background", "discover")
WITH_FOLDERS = COMMANDS[:-1]  # discover adds to existing maps


@pytest.fixture
def call(gta: Gta, tiny_model: Path, tmp_path: Path, bright: None) -> Gta:
    """Return `call(command, *images)`, which uses the tiny model and writes to tmp_path/out."""

    def run(command: str, *words: object) -> Any:
        (tmp_path / "masks").mkdir(exist_ok=True)
        own = {
            "segment": ("--backend", "bright"),
            "discover": ("--backend", "bright"),
            "probe attention": ("--masks", str(tmp_path / "masks")),
            "probe background": ("--masks", str(tmp_path / "masks")),
        }
        shared = ("-m", str(tiny_model), "-o", str(tmp_path / "out"), "--device", "cpu")
        model = ("--teacher", str(tiny_model)) if command == "discover" else shared[:2]
        options = (*model, *shared[2:], *own.get(command, ()))
        return gta(*command.split(), *map(str, words), *options, "--json")

    return run


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_stdin_is_not_an_error(
    call: Gta, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    stdin(monkeypatch, "")
    done = call(command, "-")
    assert done.status == 0, done.err
    assert "warning: no paths on stdin" in done.err
    stdin(monkeypatch, "missing.png\n")
    assert "no paths" not in call(command, "-").err


@pytest.mark.parametrize("command", WITH_FOLDERS)
def test_after_a_wrong_path_the_same_folder_can_be_used(
    call: Gta, scene: Callable[..., Any], tmp_path: Path, command: str
) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(scene(tmp_path / name)).save(tmp_path / "masks" / name)
    right = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    wrong = call(command, tmp_path / "aa.png")
    assert wrong.status == 1
    assert "aa.png" in wrong.err
    done = call(command, *right)
    assert done.status == 0, done.err
    again = call(command, *right)
    if command == "probe background":  # probes share a folder, each its own record in it
        assert again.status == 0
        assert len(json.loads((tmp_path / "out" / "summary.json").read_text())["results"]) == 1
    else:
        assert again.status == 2
        assert "is not empty" in again.err


@pytest.mark.parametrize("command", ["attention-map", "segment"])
def test_an_image_is_given_twice(
    call: Gta, scene: Callable[..., Any], tmp_path: Path, command: str
) -> None:
    scene(tmp_path / "a.png")
    done = call(command, tmp_path / "a.png", tmp_path)
    assert done.status == 1
    errors = [line["error"] for line in done.lines if "error" in line]
    assert errors == [f"{tmp_path}/a.png: is given twice"]


def test_inspecting_maps_logs_nothing(
    call: Gta, gta: Gta, scene: Callable[..., Any], tmp_path: Path
) -> None:
    scene(tmp_path / "a.png")
    assert call("discover", tmp_path / "a.png").status == 0
    for switch in ("-q", "-v"):
        shown = gta("maps", "stats", str(tmp_path / "out"), switch)
        assert (shown.status, shown.err) == (0, "")
