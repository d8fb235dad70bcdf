"""Tests of the confusion matrices that `gta report` writes as PNG and CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gtacli.cli import main
from gtacli.rendering.confusion import draw_confusion
from gtacli.report.confusion import write_confusions
from gtacli.report.predictions import Confusions

CLASSES = ("wren", "=crow", "x\ny")
PAIRS = [[0, 0, 6], [0, 1, 2], [1, 0, 1], [1, 1, 1]]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def test_tables(tmp_path: Path) -> None:
    files = write_confusions(tmp_path, {"run": Confusions(CLASSES, PAIRS, "test images")})
    assert [Path(f).name for f in files] == [
        "confusion.png", "confusion.csv", "pairs.csv", "classes.csv"
    ]  # fmt: skip
    assert table(tmp_path / "confusion.csv") == [
        {"true class": "wren", "wren": "6", "'=crow": "2", "x\\ny": "0"},
        {"true class": "'=crow", "wren": "1", "'=crow": "1", "x\\ny": "0"},
    ]
    # Of 2 and 1 images: the first is more, though it is the smaller fraction.
    assert table(tmp_path / "pairs.csv") == [
        {"true class": "wren", "predicted class": "'=crow", "images": "2", "fraction": "0.25"},
        {"true class": "'=crow", "predicted class": "wren", "images": "1", "fraction": "0.5"},
    ]
    wren, crow, none = table(tmp_path / "classes.csv")
    assert (wren["images"], wren["correct"], wren["accuracy"]) == ("8", "6", "0.75")
    assert float(wren["precision"]) == pytest.approx(6 / 7, abs=1e-6)
    assert float(crow["f1"]) == pytest.approx(2 * 1 / (1 + 1 + 1 + 2))
    assert none == {"class": "x\\ny", "images": "0", "correct": "0", "accuracy": "",
                    "precision": "", "f1": ""}  # fmt: skip


@pytest.mark.parametrize("classes", [2, 30, 130, 1300])
def test_a_matrix_of_any_size_is_drawn(classes: int) -> None:
    counts = np.eye(classes, dtype=np.int64) * 5
    counts[0, 1] = 5
    drawn = np.asarray(draw_confusion(["a class " * 9] * classes, counts)).astype(int)
    assert max(drawn.shape) < 1700
    blue = (drawn[..., 2] - drawn[..., 0] > 60).sum()
    red = (drawn[..., 0] - drawn[..., 2] > 60).sum()
    assert blue > red > 0
    assert blue / red == pytest.approx(classes, rel=0.25)


def test_a_matrix_has_a_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the run and the images; one that is too long does not leave the picture."""
    written: list[tuple[str, float]] = []
    original = ImageDraw.ImageDraw.text

    def spy(pen: Any, place: Any, text: str, *args: Any, **kwargs: Any) -> None:
        written.append((text, place[0] + pen.textlength(text, args[1]) - pen.im.size[0]))
        original(pen, place, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    for name in ("my run", "a long name " * 20):
        write_confusions(tmp_path, {name: Confusions(CLASSES, PAIRS, "test images")})
    titles = [(text, over) for text, over in written if text.endswith(": 10 test images")]
    assert titles[0][0] == "my run: 10 test images"
    assert len(titles) == 2
    assert all(over < 0 for _, over in titles)


def test_files_of_every_run(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", *map(str, runs[:2]), "-o", str(tmp_path / "r.html"), "--quiet", "--json"]
    assert main([*words, "--confusion", str(tmp_path / "c")]) == 0
    files = [Path(f) for f in json.loads(capsys.readouterr().out)["confusion"]]
    assert {f.parent.name for f in files} == {run.name for run in runs[:2]}
    for run in runs[:2]:
        summary = json.loads((run / "summary.json").read_text())
        rows = table(tmp_path / "c" / run.name / "classes.csv")
        hits = sum(int(row["correct"]) for row in rows)
        assert hits / sum(int(row["images"]) for row in rows) == summary["test_top1"]
        with Image.open(tmp_path / "c" / run.name / "confusion.png") as picture:
            assert picture.format == "PNG"


def test_without_images_there_is_nothing_to_confuse(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", str(runs[0]), "-o", str(tmp_path / "r.html"), "--no-images"]
    assert main([*words, "--confusion", str(tmp_path / "c")]) == 2
    assert "not with --no-images" in capsys.readouterr().err


def test_runs_that_have_learned_from_all_images_have_none(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", str(runs[-1]), "-o", str(tmp_path / "r.html"), "--max-images", "1"]
    assert main([*words, "--confusion", str(tmp_path / "c")]) == 0
    assert "no confusion matrix" in capsys.readouterr().err
    assert not [*tmp_path.glob("c/*")]
