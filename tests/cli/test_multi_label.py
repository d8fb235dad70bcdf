"""The commands on a model for any number of labels: predict, export, report, calibrate, merge."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtacli.data import load_dataset
from gtacli.data.readers.label_cells import split_labels
from gtacli.inference.prediction_table import TableShape, join_labels, label_separator
from tests.conftest import write_label_table

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of 24 images that have red, green and blue or not."""
    root = tmp_path_factory.mktemp("labels")
    write_label_table(root, 24, 16)
    return root


def words_of(place: Path, model: Path, out: Path, epochs: int) -> list[str]:
    """Return the words that train on the table."""
    words = ["finetune", "--data", str(place / "set.csv"), "--multi-label", "--model", str(model)]
    words += ["--out", str(out), "--epochs", str(epochs)]
    return [*words, "--batch-size", "4", "--workers", "0"]


@pytest.fixture
def run(place: Path, gta: Any, tiny_model: Path) -> Path:
    """A run on it; its classifier is that of the first test."""
    folder = place / "run"
    if not folder.exists():
        words = words_of(place, tiny_model, folder, epochs=12)
        result = gta(*words, "--lr", "3e-3", "--lam", "0.1")
        assert result.status == 0, result.err
        assert "test mAP %" in result.out
        assert "linear probe, test mAP %" in result.out
        assert "top-1" not in result.out
    return folder


def test_predict(run: Path, place: Path, gta: Any, tmp_path: Path) -> None:
    image = str(place / "22.png")  # green and red
    (line,) = gta("predict", image, "--model", str(run), "--json").lines
    assert {one["class"] for one in line["top"]} == set(CLASSES)
    assert [one for one in line["top"] if one["probability"] > 0.5] == line["labels"]
    p = np.array([one["probability"] for one in line["top"]])
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p)).sum()
    assert line["entropy"] == pytest.approx(entropy, rel=1e-3)
    assert sum(p) != pytest.approx(1, abs=1e-3)
    low = gta("predict", image, "--model", str(run), "--threshold", "1e-6").out
    assert all(name in low for name in CLASSES)
    high = gta("predict", image, "--model", str(run), "--threshold", "0.999999").out
    assert high == f"{image}\tno label\n"
    refused = gta("predict", image, "--model", str(run), "--unsure", "0.5")
    assert (refused.status, refused.err.count("error:")) == (2, 1)
    assert "--threshold sets which are predicted" in refused.err


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_are_read_as_labels(
    suffix: str, run: Path, place: Path, gta: Any, tmp_path: Path
) -> None:
    table = place / f"predicted.{suffix}"
    images = [str(place / f"{i}.png") for i in range(16, 24)]
    words = ["predict", *images, "--model", str(run), "--top", "2"]
    result = gta(*words, f"--{suffix}", str(table), "--threshold", "0.4", "--json")
    data = load_dataset(str(table), multi_label=True)
    found = {
        Path(record.key).name: {data.classes[i] for i in record.every_label}
        for record in data["train"]
    }
    expected = {
        Path(line["image"]).name: {one["class"] for one in line["labels"]} for line in result.lines
    }
    assert found == expected
    if suffix == "csv":
        with table.open(newline="") as file:
            assert next(csv.reader(file)) == [
                *("image", "labels", "class", "probability", "class2", "probability2")
            ]


def test_separators_are_in_no_name() -> None:
    assert label_separator(["a", "b c"]) == "|"
    assert label_separator(["a|b", "c"]) == ";"
    names = ["a|b", "c;d", "e,f"]
    separator = label_separator(names)
    cell = join_labels(names, TableShape(1, separator=separator))
    assert split_labels([cell]) == [tuple(names)]


@pytest.mark.slow
def test_onnx_without_torch(run: Path, place: Path, gta: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = tmp_path / "model.onnx"
    assert gta("export", str(run), "-o", str(file)).status == 0
    image = str(place / "19.png")
    (ours,) = gta("predict", image, "--model", str(run), "--json").lines
    code = (
        "import sys; from gtacli.cli import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    words = ["predict", image, "--model", str(file), "--json", "--threshold", "0.5"]
    found = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    theirs = json.loads(found.stdout)
    assert [one["class"] for one in theirs["labels"]] == [one["class"] for one in ours["labels"]]
    for a, b in zip(theirs["top"], ours["top"], strict=True):
        assert a["class"] == b["class"]
        assert a["probability"] == pytest.approx(b["probability"], abs=1e-4)


@pytest.mark.slow
def test_other_exports(run: Path, place: Path, gta: Any, tmp_path: Path) -> None:
    for name, path in (("pt2", "m.pt2"), ("safetensors", "m.safetensors"), ("timm-hub", "hub")):
        result = gta("export", str(run), "--format", name, "-o", str(tmp_path / path), "--json")
        assert result.status == 0, result.err
        assert result.lines[0]["differences"]["probabilities"] < 1e-4
    config = json.loads((tmp_path / "hub/config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    card = (tmp_path / "hub/README.md").read_text()
    assert ".sigmoid()" in card
    assert "mean average precision" in card
    image = str(place / "22.png")
    (ours,) = gta("predict", image, "--model", str(run), "--json").lines
    hub = f"local-dir:{tmp_path / 'hub'}"  # whose config.json alone says it
    (theirs,) = gta("predict", image, "--model", hub, "--json").lines
    p, q = ([one["probability"] for one in line["labels"]] for line in (ours, theirs))
    assert p == pytest.approx(q, abs=1e-5)


def test_report(run: Path, gta: Any, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = gta("report", str(run), "-o", str(page), "--confusion", str(tmp_path / "c"))
    assert result.status == 0
    text = page.read_text()
    assert "test mAP" in text
    assert "average precision %" in text
    assert "has changed since" not in text
    with (tmp_path / "c/classes.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["class", "test images", "ap", "f1"]
    assert sorted(row[0] for row in rows[1:]) == [*CLASSES]
    assert not (tmp_path / "c/confusion.png").exists()


@pytest.fixture
def calibrated(place: Path, gta: Any, tiny_model: Path) -> Path:
    """A calibrated run that has learned little, and has held out half of its images."""
    folder = place / "calibrated"
    if not folder.exists():
        words = words_of(place, tiny_model, folder, epochs=2)
        words += ["--hold-out", "50", "--lam", "0", "--head-init", "random", "--no-linear-probe"]
        assert gta(*words).status == 0
        result = gta("calibrate", str(folder), "--workers", "0")
        assert result.status == 0, result.err
        assert "labels are predicted above" in result.out
        assert "files that gta export wrote before do not" in result.out
        assert "8 held-out images with 12 labels: temperature and threshold" in result.err
    return folder


def truth_and_chances(
    place: Path, run: Path, images: Iterable[int], gta: Any
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the labels (N, 3) of images, and their probabilities by `gta predict`."""
    words = ["predict", *(str(place / f"{i}.png") for i in images), "--model", str(run), "--json"]
    by_name = [
        {one["class"]: one["probability"] for one in line["top"]} for line in gta(*words).lines
    ]
    chances = np.array([[own[name] for name in CLASSES] for own in by_name])
    truth = np.array([[(i >> bit) & 1 for bit in (2, 1, 0)] for i in images])
    return truth, chances


def test_calibrate(calibrated: Path, place: Path, gta: Any, tmp_path: Path) -> None:
    """The threshold has the highest F1 of the held-out images, by another program."""
    (summary,) = gta("calibrate", str(calibrated), "--workers", "0", "--json").lines
    assert (summary["n_val"], summary["n_test"]) == (8, 8)
    assert summary["threshold"] is summary["sure"] is summary["test_sure"] is None
    stored = json.loads((calibrated / "calibration.json").read_text())
    assert stored["labels"]["value"] == summary["label_threshold"]
    assert stored["labels"]["f1_after"] == summary["test_f1_micro"]
    split = json.loads((calibrated / "split.json").read_text())
    held_out = [int(Path(key).stem) for key in split["val"]]
    truth, chances = truth_and_chances(place, calibrated, held_out, gta)

    def f1(threshold: float, axis: int | None = None) -> float:
        """Of all labels together, or with 0 the mean over the classes."""
        said = chances > threshold
        both, one = (said & (truth > 0)).sum(axis), said.sum(axis) + truth.sum(axis)
        return float(np.mean(2 * both / one))

    best = max(f1(threshold) for threshold in np.unique(chances) - 1e-7)
    assert f1(summary["label_threshold"]) == pytest.approx(best)
    assert summary["val_f1_micro"] == pytest.approx(best)
    assert summary["val_f1_micro_before"] == pytest.approx(f1(0.5))
    assert summary["val_f1_macro"] == pytest.approx(f1(summary["label_threshold"], axis=0))
    plain_run = Path(shutil.copytree(calibrated, tmp_path / "plain"))
    (plain_run / "calibration.json").unlink()
    _, plain = truth_and_chances(place, plain_run, held_out, gta)
    odds = [np.log(p / (1 - p)) for p in (plain, chances)]
    assert odds[0] / odds[1] == pytest.approx(summary["temperature"], rel=1e-2)
    truth, chances = truth_and_chances(place, calibrated, range(16, 24), gta)
    assert summary["test_f1_micro"] == pytest.approx(f1(summary["label_threshold"]))
    assert summary["test_f1_macro_before"] == pytest.approx(f1(0.5, axis=0))


@pytest.mark.slow
def test_predict_and_export_use_the_threshold(
    calibrated: Path, place: Path, gta: Any, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    image = str(place / "22.png")
    file = tmp_path / "model.onnx"
    stored = json.loads((calibrated / "calibration.json").read_text())
    (line,) = gta("predict", image, "--model", str(calibrated), "--json").lines
    # Between the second and the third probability, so that the default would say something else.
    p = [one["probability"] for one in line["top"]]
    stored["labels"]["value"] = (p[1] + p[2]) / 2
    calibrated = Path(shutil.copytree(calibrated, tmp_path / "run"))
    (calibrated / "calibration.json").write_text(json.dumps(stored))
    assert gta("export", str(calibrated), "-o", str(file)).status == 0
    for model in (str(calibrated), str(file)):
        (line,) = gta("predict", image, "--model", model, "--json").lines
        assert len(line["labels"]) == 2
        (line,) = gta("predict", image, "--model", model, "--json", "--threshold", "1e-9").lines
        assert len(line["labels"]) == 3
    refused = gta("calibrate", str(calibrated), "--accuracy", "0.9")
    assert (refused.status, refused.err.count("error:")) == (2, 1)
    assert "--accuracy: is for one class per image" in refused.err


def test_the_report_shows_the_threshold(calibrated: Path, gta: Any, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert gta("report", str(calibrated), "-o", str(page), "--no-images").status == 0
    section = page.read_text().split("<h2>Calibration</h2>")[1]
    stored = json.loads((calibrated / "calibration.json").read_text())["labels"]
    assert "labels predicted above %" in section
    assert f"<td>{100 * stored['value']:.1f}</td>" in section
    assert "24 labels of test images" in section


def test_merge(run: Path, gta: Any, tmp_path: Path) -> None:
    merged = gta("merge", str(run), str(run), "-o", str(tmp_path / "merged"), "--json")
    assert merged.status == 0, merged.err
    (summary,) = merged.lines
    assert summary["test_top1"] is None
    recorded = json.loads((run / "summary.json").read_text())["test_map"]
    assert summary["test_map"] == pytest.approx(recorded, abs=1e-6)
    assert gta("merge", str(run), "-o", str(tmp_path / "again"), "--alpha", "1").status == 0


def test_other_commands_name_the_option(place: Path, gta: Any, tiny_model: Path) -> None:
    ones = place / "ones.csv"
    ones.write_text("image,a,b\n0.png,1,1\n1.png,0,1\n2.png,1,1\n")
    for words in (["probe", "knn"], ["finetune"], ["probe", "retrieval"]):
        result = gta(*words, "--data", str(ones), "--model", str(tiny_model))
        assert (result.status, result.err.count("error:")) == (2, 1)
        assert "a and b are 1 in one row" in result.err
