"""Tests of `gta calibrate`, and of what `gta predict` does with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.special import log_softmax, softmax
from torchvision.transforms.v2 import functional as F

from gtacli.cli import main
from gtacli.measures.calibration import fit_temperature
from gtacli.models import load_model


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "run0", tmp_path / "run"))


def line(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, words), "--json", "--device", "cpu"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def logits_of(run: Path, paths: list[Path]) -> np.ndarray[Any, Any]:
    """Return the logits of images by the model's own preprocessing."""
    model = load_model(str(run))
    images = torch.stack([model.preprocess(Image.open(path)) for path in paths])
    with torch.no_grad():
        found: np.ndarray[Any, Any] = model.model.eval()(images).double().numpy()
    return found


def test_the_temperature_has_the_least_loss_on_held_out_images(
    trained: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = line(capsys, "calibrate", run, "--workers", "0")
    keys = json.loads((run / "split.json").read_text())["val"]
    paths = [trained / "tiny-data" / key for key in keys]
    logits = logits_of(run, paths)
    classes = load_model(str(run)).classes
    labels = np.array([classes.index(path.parent.name) for path in paths])
    assert summary["n_val"] == len(labels)

    def loss(t: float) -> float:
        scaled = log_softmax(logits / t, axis=1)
        return -float(scaled[np.arange(len(labels)), labels].mean())

    grid = np.exp(np.linspace(-3, 3, 2001))
    assert loss(summary["temperature"]) <= min(map(loss, grid)) + 1e-4
    stored = json.loads((run / "calibration.json").read_text())
    assert stored["temperature"] == summary["temperature"]
    assert stored["images"] == len(labels)
    assert 0 <= summary["test_ece"] <= 1
    assert stored["reliability"]["images"] == "test"
    for key, error in (("before", "test_ece_before"), ("after", "test_ece")):
        bins = stored["reliability"][key]
        assert sum(b[4] for b in bins) == summary["n_test"]
        gap = sum(b[4] * abs(b[3] - b[2]) for b in bins) / summary["n_test"]
        assert gap == pytest.approx(summary[error])


def test_predictions_use_it(
    trained: Path, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    image = next((trained / "tiny-data" / "test" / "red").iterdir())
    calibration = {"temperature": 3.0, "threshold": 0.999, "accuracy": 0.95, "images": 9}
    (run / "calibration.json").write_text(json.dumps(calibration))
    found = line(capsys, "predict", image, "-m", run, "--unsure", "auto")
    expected = softmax(logits_of(run, [image])[0] / 3.0)
    assert found["top"][0]["probability"] == pytest.approx(expected.max(), abs=1e-4)
    assert found["entropy"] == pytest.approx(-(expected * np.log(expected)).sum(), abs=1e-3)
    assert found["unsure"] is True
    assert line(capsys, "predict", image, "-m", run, "--unsure", "0.01")["unsure"] is False
    assert "unsure" not in line(capsys, "predict", image, "-m", run)
    words = ["predict", str(image), "-m", str(run), "--unsure", "auto", "--top", "1", "--csv", "-"]
    capsys.readouterr()
    assert main(words) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head == "image,class,probability,unsure"
    assert row.endswith(",yes")


@pytest.mark.parametrize("tta", ["flip", "crops"])
def test_probabilities_of_several_views_are_averaged(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, tta: str
) -> None:
    model = load_model(str(trained / "run0"))
    side = model.image_size[0]
    cover = int(side / model.crop_pct)  # no resizing
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (cover, cover + 22, 3), np.uint8))
    picture.save(tmp_path / "x.png")
    whole = F.pil_to_tensor(picture)
    center = F.center_crop(whole, [side, side])
    views = {"flip": [center, center.flip(-1)], "crops": F.five_crop(whole, [side, side])}[tta]
    batch = F.normalize(torch.stack([*views]).float() / 255, [*model.mean], [*model.std])
    with torch.no_grad():
        expected = model.model.eval()(batch).softmax(-1).mean(0)
    found = line(capsys, "predict", tmp_path / "x.png", "-m", trained / "run0", "--tta", tta)
    got = {each["class"]: each["probability"] for each in found["top"]}
    for name, p in zip(model.classes, expected.tolist(), strict=True):
        assert got[name] == pytest.approx(p, abs=1e-5)
    plain = line(capsys, "predict", tmp_path / "x.png", "-m", trained / "run0")
    assert plain["top"][0]["probability"] != found["top"][0]["probability"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "auto needs a calibrated run"),
        ('{"temperature": 1.5, "threshold": null, "accuracy": 0.95, "images": 4}', "give a number"),
        ('{"temperature": -1, "accuracy": 0.95, "images": 4}', "delete it"),
        ("{", "delete it"),
    ],
    ids=["none", "no threshold", "range", "damaged"],
)
def test_a_missing_or_damaged_calibration_is_one_line(
    trained: Path, run: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    if content is not None:
        (run / "calibration.json").write_text(content)
    image = next((trained / "tiny-data" / "test" / "red").iterdir())
    capsys.readouterr()
    assert main(["predict", str(image), "-m", str(run), "--unsure", "auto", "-q"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error


def test_a_run_that_has_held_out_nothing_cannot_be_calibrated(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = json.loads((run / "split.json").read_text())
    (run / "split.json").write_text(json.dumps(split | {"val": []}))
    capsys.readouterr()
    assert main(["calibrate", str(run), "-q"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "train with --hold-out 20" in error


def test_a_run_with_folds_is_calibrated_by_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images that it has held out go first; where there are none, those of its folds count."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(18) % 3
    logits = 3 * torch.randn(18, 3, generator=generator)
    save_file({"logits": logits, "labels": labels}, run / "folds.safetensors")
    split = json.loads((run / "split.json").read_text())
    (run / "split.json").write_text(json.dumps(split | {"val": []}))
    capsys.readouterr()
    assert main(["calibrate", str(run), "-q", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_val"] == 18
    expected = fit_temperature(logits.numpy(), labels.numpy())
    assert found["temperature"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "tensors",
    [
        {"logits": torch.zeros(4, 2), "labels": torch.zeros(4, dtype=torch.int64)},
        {"logits": torch.zeros(4, 3), "labels": torch.full((4,), 3)},
        {"logits": torch.full((4, 3), torch.nan), "labels": torch.zeros(4, dtype=torch.int64)},
        {"logits": torch.zeros(0, 3), "labels": torch.zeros(0, dtype=torch.int64)},
        {"labels": torch.zeros(4, dtype=torch.int64)},
    ],
    ids=["classes", "labels", "nan", "empty", "none"],
)
def test_damaged_folds_are_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], tensors: dict[str, torch.Tensor]
) -> None:
    save_file(tensors, run / "folds.safetensors")
    split = json.loads((run / "split.json").read_text())
    (run / "split.json").write_text(json.dumps(split | {"val": []}))
    capsys.readouterr()
    assert main(["calibrate", str(run), "-q"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "folds.safetensors is damaged" in error
