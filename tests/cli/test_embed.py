"""Tests of `gta embed`."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from gtacli.models import load_model

SIDE = 56  # 256/224 of which is a whole number


def words(*more: object) -> list[str]:
    return ["embed", *map(str, more)]


def by_hand(spec: Path, paths: list[str]) -> np.ndarray[Any, Any]:
    """Compute CLS tokens after the norm, by torchvision on Pillow images and timm's forward."""
    model = load_model(str(spec), image_size=(SIDE, SIDE))
    preprocess = transforms.Compose(
        [
            transforms.Resize(SIDE * 256 // 224, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIDE),
            transforms.ToTensor(),
            transforms.Normalize(model.mean, model.std),
        ]
    )
    images = torch.stack([preprocess(Image.open(p).convert("RGB")) for p in paths])  # type: ignore[misc]
    network: Any = model.model.eval()
    with torch.no_grad():
        found: np.ndarray[Any, Any] = network.forward_features(images)[:, 0].numpy()
    return found


def test_embeddings_are_those_of_the_plain_forward_pass(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "e.npz"
    rng = np.random.default_rng(0)
    for path in tiny_data.rglob("*.png"):
        pixels = rng.integers(0, 256, (64, 90, 3), np.uint8)
        Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC).save(path)
    common = ["--data", tiny_data, "-m", tiny_model, "--image-size", SIDE]
    result = gta(*words(*common, "-o", out, "--json"))
    assert result.status == 0
    (summary,) = result.lines
    with np.load(out) as arrays:
        values, paths = arrays["embeddings"], arrays["paths"].tolist()
        labels = arrays["labels"].tolist()
    assert (summary["images"], summary["failed"]) == (len(values), 0)
    assert (summary["dimensions"], summary["format"]) == (values.shape[1], "npz")
    assert summary["bytes"] == out.stat().st_size
    assert labels == [Path(path).parent.name for path in paths]
    np.testing.assert_allclose(values, by_hand(tiny_model, paths), atol=2e-2)
    assert gta(*words(*common, "-o", tmp_path / "u.npz", "--normalize")).status == 0
    with np.load(tmp_path / "u.npz") as arrays:
        expected = values / np.linalg.norm(values, axis=1, keepdims=True)
        np.testing.assert_allclose(arrays["embeddings"], expected, atol=1e-6)


def test_an_unreadable_image_is_named_and_left_out(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = sorted((tiny_data / "test" / "blue").iterdir())[:2]
    (tmp_path / "broken.png").write_bytes(b"no image")
    given = f"{good[0]}\nbroken.png\n{good[1]}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    more = ["-o", "e.csv", "--json", "--features", "cls+mean"]
    result = gta(*words("-", "-m", tiny_model, *more))
    assert result.status == 1
    failure, summary = result.lines
    assert failure["image"] == "broken.png"
    assert (summary["images"], summary["failed"]) == (2, 1)
    lines = (tmp_path / "e.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == [str(path) for path in good]
    assert lines[0].split(",")[4:] == [f"e{i}" for i in range(summary["dimensions"])]


def test_without_out_the_file_lies_in_runs(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = words(tiny_data / "test", "-m", tiny_model, "--format", "safetensors", "--json")
    (summary,) = gta(*given).lines
    assert Path(summary["file"]).match("runs/embed-*/embeddings.safetensors")
    assert Path(summary["file"]).is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-o", "e.txt"], "--format says it"),
        (["-o", "used.csv"], "--overwrite replaces it"),
        (["-o", "."], "is a folder"),
        (["-o", "e.csv", "--layer", "99"], "no block 99"),
        (["-o", "e.csv", "--format", "json"], "must be"),
    ],
    ids=["suffix", "exists", "folder", "block", "format"],
)
def test_wrong_usage_is_one_line(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path, given: list[str], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used.csv").touch()
    result = gta(*words(tiny_data / "test", "-m", tiny_model, "-q", *given))
    assert result.status == 2
    (line,) = result.err.splitlines()
    assert message in line
    assert gta(*words("-m", tiny_model, "-q")).status == 2


def test_a_file_is_not_replaced_by_one_without_images(
    gta: Any, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    out = tmp_path / "out" / "e.csv"
    out.parent.mkdir()
    out.write_text("precious")
    result = gta(*words(tmp_path / "in", "-m", tiny_model, "-o", out, "--overwrite"))
    assert result.status == 3
    assert f"no image could be read; {out} stays as it was" in result.err
    assert out.read_text() == "precious"
    assert [*out.parent.iterdir()] == [out]
