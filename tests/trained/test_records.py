"""What the record of a run says of its images holds wherever and however it is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gtacli.cli import main
from gtacli.inference.calibrated import read_calibration
from gtacli.trained.check_images import check_images
from gtacli.trained.runs import read_run


def edit(run: Path, **config: Any) -> None:
    record = json.loads((run / "run.json").read_text())
    record["config"] |= config
    (run / "run.json").write_text(json.dumps(record))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained / "run0", tmp_path / "run")
    return tmp_path / "run"


def test_its_paths_are_those_of_the_folder_where_it_began(
    trained: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = json.loads((run / "run.json").read_text())
    record |= {"folder": str(trained)}
    record["config"] |= {"data": "tiny-data", "model": "tiny-model"}
    (run / "run.json").write_text(json.dumps(record))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read_run(run).config.data == str(trained / "tiny-data")
    assert main(["calibrate", str(run), "-q", "--device", "cpu"]) == 0


def test_a_calibration_below_the_home_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["calibrate", str(run), "-q", "--device", "cpu"]) == 0
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_calibration("~/run") == read_calibration(str(run))
    assert read_calibration("~/run") is not None


def test_its_values_become_black_and_white_as_in_its_training(
    run: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of 16 bits: the run's own range counts, not that of each image."""
    data = tmp_path / "deep"
    for path in sorted((trained / "tiny-data").rglob("*.png")):
        to = data / path.relative_to(trained / "tiny-data")
        to.parent.mkdir(parents=True, exist_ok=True)
        gray = np.asarray(Image.open(path).convert("L"), np.uint16) * 16
        Image.fromarray(gray).save(to)

    def temperature(*more: str) -> float:
        words = ["calibrate", str(run), "--device", "cpu", "--data", str(data), "--json", *more]
        capsys.readouterr()
        assert main(words) == 0
        return float(json.loads(capsys.readouterr().out)["val_ece_before"])

    own, given = temperature(), temperature("--value-range", "20000")
    assert own != given
    edit(run, value_range="20000")
    assert temperature() == given
    assert temperature("--value-range", "4095") == own  # what is said now counts


def test_images_of_a_run_without_labels_check_its_export(
    run: Path, tmp_path: Path, make_image: Any
) -> None:
    for name in ("a.png", "b.png"):
        make_image(tmp_path / "photos" / name)
    record = json.loads((run / "run.json").read_text())
    record["command"] = "pretrain"
    record["config"]["data"] = str(tmp_path / "photos")
    (run / "run.json").write_text(json.dumps(record))
    (run / "split.json").unlink()
    assert check_images(str(run), ()).source == "images of the run's dataset"
    folder = check_images(str(run), [str(tmp_path / "photos")])  # as for other commands
    assert len(folder.images) == 2
