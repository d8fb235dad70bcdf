"""Tests of `gta probe robust`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from gtacli.probing.results import RobustResult

TINY = {"embed_dim": 24, "depth": 1, "num_heads": 3, "img_size": 32, "patch_size": 8}


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=1000, **TINY)
    folder = tmp_path / "classifier"
    folder.mkdir()
    metadata = {"architecture": "vit_tiny_patch16_224", "kwargs": json.dumps(TINY)}
    save_file(model.state_dict(), folder / "model.safetensors", {**metadata, "num_classes": "1000"})
    return folder


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def words(model: Path, out: Path, *more: object) -> list[str]:
    shared = ["-m", str(model), "-o", str(out), "--device", "cpu"]
    return ["probe", "robust", *shared, *map(str, more)]


def test_datasets_and_table(gta: Any, check_fields: Any, classifier: Path, tmp_path: Path) -> None:
    for name in ("v2/7/a.png", "r/n01440764/a.png", "r/n01443537/a.png", "cues/cat1-dog2.png"):
        draw(tmp_path / name)
    (tmp_path / "r" / "n01440764" / "b.png").write_bytes(b"none")
    given = [
        "--imagenet-v2", tmp_path / "v2", "--imagenet-r", tmp_path / "r",
        "--cue-conflict", tmp_path / "cues",
    ]  # fmt: skip
    compare = ["--compare", classifier]
    done = gta(*words(classifier, tmp_path / "o", *given, *compare), "--json")
    assert done.status == 1
    failed, *lines = done.lines
    for line in lines:
        check_fields(RobustResult, line)
    assert "b.png" in failed["image"]
    assert [line["data"] for line in lines] == ["v2"] * 2 + ["r"] * 2 + ["cue-conflict"] * 2
    assert [line["reference"] for line in lines[:2]] == [None, str(classifier)]
    assert lines[3]["compared"]["top1"]["p"] == 1
    assert (lines[2]["n_test"], lines[4]["n_conflict"]) == (2, 1)
    assert "ImageNet-R has 2 classes here, 200 as published" in done.err
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert len(summary["results"]) == 6
    table = gta(*words(classifier, tmp_path / "o", *given))
    rows = [line.split("  ")[0] for line in table.out.splitlines()]
    assert rows[1:] == [
        "ImageNet-V2", "ImageNet-R", "shape bias", "decided by shape", "decided by texture",
    ]  # fmt: skip


def test_wrong_usage(gta: Any, classifier: Path, tiny_model: Path, tmp_path: Path) -> None:
    draw(tmp_path / "s" / "n01440764" / "a.png")
    for model, given, message in (
        (classifier, [], "no images: give"),
        (classifier, ["--sketch", tmp_path / "away"], "--sketch: no folder"),
        (tiny_model, ["--sketch", tmp_path / "s"], "has no classifier for ImageNet's classes"),
    ):
        done = gta(*words(model, tmp_path / "o", *given))
        assert (done.status, done.out) == (2, "")
        assert message in done.err
    assert not (tmp_path / "o").exists()
