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
import timm
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
    assert found["checked_on"] == "images of the run's dataset"
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


def test_timm_hub(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "hub"
    words = ["export", run, "--format", "timm-hub", "-o", folder, "--license", "cc-by's"]
    found = line(capsys, *words)
    assert found["differences"]["probabilities"] < 1e-5
    names = ["README.md", "attention.png", "config.json", "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        (folder / "config.json").stat().st_mode & 0o777
    }
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    ours = load_model(str(run))
    images = torch.randn(2, 3, *ours.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(images), ours.model(images), atol=1e-5)
    data = timm.data.resolve_data_config(model=model)
    assert tuple(data["mean"]) == ours.mean
    assert data["crop_pct"] == ours.crop_pct
    assert tuple(data["input_size"][1:]) == ours.image_size
    assert json.loads((folder / "config.json").read_text())["label_names"] == [*ours.classes]
    text = (folder / "README.md").read_text()
    assert "license: 'cc-by''s'" in text
    top1 = json.loads((run / "summary.json").read_text())["test_top1"]
    assert f"| top-1 accuracy | {top1:.1%} | " in text
    assert "on tiny-data (" in text
    assert str(tmp_path) not in text  # no folders of the author
    assert "blue, green, red" in text
    again = load_model(str(folder))  # gta's commands take it, too
    assert again.classes == ours.classes
    assert main([*map(str, words)]) == 2
    assert "overwrite" in capsys.readouterr().err


def test_safetensors(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "weights.safetensors"
    assert line(capsys, "export", run, "-o", file)["format"] == "safetensors"
    ours, theirs = load_model(str(run)), load_model(f"vit_tiny_patch16_224@{file}")
    assert theirs.classes == ours.classes
    assert (theirs.mean, theirs.crop_pct) == (ours.mean, ours.crop_pct)
    for name, value in ours.model.state_dict().items():
        assert torch.equal(value, theirs.model.state_dict()[name])


def test_what_weights_cannot_hold(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(run), "-o", str(tmp_path / "w.safetensors")]
    for more, message in (
        (["--with-preprocessing"], "holds weights, no graph"),
        (["--outputs", "attention"], "holds weights, no graph"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert not any(tmp_path.glob("*.safetensors"))


@pytest.mark.slow
def test_pt2(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.pt2"
    found = line(capsys, "export", run, "-o", file, "--outputs", "embedding,probabilities")
    assert found["outputs"] == ["embedding", "probabilities"]
    assert found["any_size"] is True
    extra = {"gta.json": ""}
    program = torch.export.load(file, extra_files=extra)
    assert read_export_card(extra["gta.json"], "file").outputs == ("embedding", "probabilities")
    model = load_model(str(run))
    images = torch.randn(3, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, probabilities = program.module()(images)
        assert torch.allclose(probabilities, model.model(images).softmax(-1), atol=1e-5)
