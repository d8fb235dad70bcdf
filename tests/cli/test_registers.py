"""Tests of `--registers` in the commands that have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtacli.models import register_search
from gtacli.models.register_search import RegisterSearch

FOUND = RegisterSearch(ratio=9.0, block=1, outliers=1.0, neurons=[[0, 3]], tokens=2)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register_search, "cached_search", lambda *_: FOUND)


@pytest.mark.usefixtures("found", "bright")
def test_segment_and_its_record(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    scene(tmp_path / "in" / "a.png")
    done = gta(*words(tiny_model, tmp_path / "out", tmp_path / "in"), "--registers", "auto")
    assert done.status == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (about,) = record["models"].values()
    assert about["registers"] == {"tokens": 2, "neurons": {"0": [3]}}
    assert record["config"]["registers"] == "auto"


@pytest.mark.usefixtures("found")
def test_attention_maps_keep_their_grid(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any
) -> None:
    scene(tmp_path / "in" / "a.png")
    maps = []
    for setting in ("none", "3"):
        out = tmp_path / setting
        where = ["attention-map", tmp_path / "in", "--model", tiny_model, "-o", out]
        done = gta(*map(str, where), "--style", "raw", "--registers", setting, "--device", "cpu")
        assert done.status == 0
        maps.append(np.load(next(out.rglob("*.npy"))))
    assert maps[0].shape == maps[1].shape
    assert not np.array_equal(*maps)


@pytest.mark.parametrize("setting", ["0", "17", "some"])
def test_other_values_are_refused(gta: Any, tiny_model: Path, tmp_path: Path, setting: str) -> None:
    shared = ["--model", str(tiny_model), "--registers", setting]
    done = gta("probe", "attention", str(tmp_path), *shared)
    assert done.status == 2
    assert "--registers" in done.err
