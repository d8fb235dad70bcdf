"""Tests of `gta export`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from gtacli.cli import main
from gtacli.models import attention, load_model
from gtacli.models.exporters.base import Export, Exporter
from gtacli.models.exporters.card import read_export_card
from gtacli.registry import EXPORTERS


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "run0", tmp_path / "run"))


def line(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_onnx(trained: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibration = {"temperature": 2.5, "threshold": 0.9, "accuracy": 0.95, "images": 9}
    (run / "calibration.json").write_text(json.dumps(calibration))
    file = tmp_path / "new" / "model.onnx"
    found = line(capsys, "export", run, "-o", file, "--with-preprocessing")
    assert found["outputs"] == ["probabilities", "attention"]
    assert found["checked_on"] == "test images of the run"
    assert max(found["differences"].values()) < 1e-4
    assert found["preprocessing_difference"] < 0.02
    assert found["bytes"] == file.stat().st_size
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
    stored = onnx.load(file)
    card = read_export_card({p.key: p.value for p in stored.metadata_props}["gta"], "file")
    model = load_model(str(run))
    assert (card.classes, card.temperature, card.threshold) == (model.classes, 2.5, 0.9)
    assert (card.spec, card.architecture) == (str(run), "vit_tiny_patch16_224")
    path = next((trained / "tiny-data" / "test" / "red").iterdir())
    session = onnxruntime.InferenceSession(file)
    pixels = np.asarray(Image.open(path)).transpose(2, 0, 1)[None]
    probabilities, attended = session.run(None, {"images": pixels})
    images = model.preprocess(Image.open(path))[None]
    with torch.no_grad():
        wanted = (model.model(images) / 2.5).softmax(-1)
        (tap,) = attention(model, images)
    assert probabilities == pytest.approx(wanted.numpy(), abs=0.02)
    assert attended == pytest.approx(tap.maps().amax(1).numpy(), abs=0.02)
    rows = [line(capsys, "predict", path, "-m", spec, "--unsure", "auto") for spec in (run, file)]
    values = [{each["class"]: each["probability"] for each in row["top"]} for row in rows]
    assert values[1] == pytest.approx(values[0], abs=1e-5)
    assert rows[1]["unsure"] == rows[0]["unsure"]


class Wrong(Exporter):
    """An exporter whose file has other probabilities."""

    help = "wrong"
    suffix = ".txt"
    has_graph = False
    off = 1e-3
    network: Any = None

    def write(self, export: Export, path: Path) -> None:
        path.write_text(str(self.off))
        Wrong.network = export.graph.module() if self.has_graph else export.model.model

    def run(self, path: Path, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        off = float(path.read_text())
        if self.has_graph:
            return tuple(value + off for value in Wrong.network(images))
        with torch.no_grad():
            return (Wrong.network(images).softmax(-1) + off,)


class Slight(Wrong):
    """One whose file has nearly the same."""

    off = 1e-6


def test_a_file_that_differs_is_not_kept(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(trained / "run0"), "--format", "other", "-o", str(tmp_path / "x/y.txt")]
    with EXPORTERS.registered("other", Wrong):
        assert main(words) == 3
    assert "differ by 0.001 from PyTorch's" in capsys.readouterr().err
    assert not any((tmp_path / "x").iterdir())
    with EXPORTERS.registered("other", Slight):
        assert main(words) == 0
        assert main(words) == 2  # it exists
        assert "overwrite" in capsys.readouterr().err
        assert main([*words, "--overwrite"]) == 0


@pytest.mark.slow
def test_the_graph_of_one_size_where_another_fails(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class AnySize(Slight):
        has_graph = True

    class OneSize(AnySize):
        def run(self, path: Path, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = super().run(path, images)
            return found if images.shape[-1] == 32 else tuple(value + 1 for value in found)

    words = ["export", trained / "run0", "-o", tmp_path / "y.txt"]
    with EXPORTERS.registered("other", AnySize):
        assert line(capsys, *words, "--format", "other")["any_size"] is True
    with EXPORTERS.registered("other", OneSize):
        assert line(capsys, *words, "--format", "other", "--overwrite")["any_size"] is False
        assert main([*map(str, words), "--format", "other", "--overwrite"]) == 0
        assert "the graph takes images of one size: probabilities" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--outputs", "logits"], "probabilities"),
        (["--outputs", "box,box"], "each once"),
        (["--format", "onyx"], "did you mean 'onnx'"),
        (["-o", "model.xyz"], "has no suffix of a format"),
        (["-o", "."], "is a folder"),
        (["--check", "no-such.png"], "no such image"),
        (["--image-size", "33"], "not a multiple of the patch size"),
    ],
)
def test_wrong_words(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    format_words = [] if {"--format", "-o"} & {*words} else ["-o", "x.onnx"]
    assert main(["export", str(trained / "run0"), *words, *format_words]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len([one for one in said if one.startswith("error:")]) == 1
    assert message in said[-1]
    assert not (tmp_path / "x.onnx").exists()


def test_outputs_that_a_model_has_not(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "demo-untrained", "-o", str(tmp_path / "x.onnx"), "--outputs"]
    assert main([*words, "probabilities"]) == 2
    assert "has no classifier, so no probabilities" in capsys.readouterr().err
