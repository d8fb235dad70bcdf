"""Tests of `gta probe attention --faithfulness`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gtacli.probing.results import FaithfulnessResult

from .test_attention import photo, words


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(3):
        photo(tmp_path / "photos" / f"{i}.png", seed=i)
    return tmp_path / "photos"


def test_kinds_are_compared(
    gta: Any, tiny_model: Path, photos: Path, tmp_path: Path, check_fields: Any
) -> None:
    base = words(tiny_model, tmp_path / "o", photos, "--faithfulness", "--steps", 3)
    done = gta(*base, "--kinds", "cls,attnlrp,gradcam", "--fill", "blur", "--json")
    assert done.status == 0, done.err
    kinds = [line["kind"] for line in done.lines]
    assert kinds == ["cls", "attnlrp", "gradcam", "random", "center"]
    for line in done.lines:
        check_fields(FaithfulnessResult, line)
        assert (line["task"], line["fill"], line["n_images"]) == ("faithfulness", "blur", 3)
        assert len(line["insertion_curve"]) == len(line["fractions"]) == 4
        assert set(line["against"]) == set(kinds) - {line["kind"]}
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["results"] == done.lines


def test_the_table_has_the_best_kind_first(
    gta: Any, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.png").write_text("no image")
    base = words(tiny_model, tmp_path / "o", photos, "--faithfulness", "--steps", 2)
    done = gta(*base, "--kinds", "cls,attnlrp")
    assert done.status == 1
    lines = done.out.splitlines()
    assert lines[0] == "images 3, patches replaced by the image's mean color"
    assert lines[1].split()[:2] == ["kind", "insertion"]
    names = [line.split()[0] for line in lines[2:]]
    assert set(names) == {"cls", "attnlrp", "random", "center"}
    results = json.loads((tmp_path / "o" / "summary.json").read_text())["results"]
    best = max(results, key=lambda result: result["gap"])
    assert names[0] == best["kind"]


def test_one_image_and_all_kinds(gta: Any, tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    base = words(tiny_model, tmp_path / "o", photos / "0.png", "--faithfulness", "--steps", 2)
    done = gta(*base)
    assert done.status == 0, done.err
    names = {line.split()[0] for line in done.out.splitlines()[2:]}
    assert names == {"cls", "rollout", "gradcam", "attnlrp", "chefer", "random", "center"}
    assert "nan" not in done.out
    results = json.loads((tmp_path / "o" / "summary.json").read_text())["results"]
    assert results[0]["gap_interval"] == [None, None]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--kinds", "cls"], "--kinds is for --faithfulness"),
        (["--faithfulness", "--layer", "last"], "--layer not with --faithfulness"),
        (["--faithfulness", "--kinds", "cls,gradcan"], "--kinds: "),
        (["--faithfulness", "--steps", "1"], "--steps"),
    ],
)
def test_wrong_use(
    gta: Any, tiny_model: Path, photos: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    done = gta(*words(tiny_model, tmp_path / "o", photos, *more))
    assert done.status == 2
    assert message in done.err
    assert not (tmp_path / "o").exists()
