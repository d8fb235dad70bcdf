"""Tests of `gta probe background`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gtacli.models import load_model
from gtacli.probing.results import BackgroundResult


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images in `photos` and their masks in `masks`; the last one's object fills it."""
    rng = np.random.default_rng(0)
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(4):
        mask = np.zeros((40, 32), np.uint8)
        mask[5:20, 5 + i : 20] = 255
        pixels = rng.integers(0, 255, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
        Image.fromarray(mask if i < 3 else mask | 255).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def in9(tmp_path: Path) -> Path:
    """Three variants of two images each of two classes."""
    rng = np.random.default_rng(0)
    for variant in ("original", "mixed_same", "mixed_rand"):
        for name in ("00_dog", "01_bird"):
            folder = tmp_path / "in9" / variant / "val" / name
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "in9"


def words(model: Path, out: Path, *more: object) -> list[str]:
    shared = ["-m", str(model), "-o", str(out), "--device", "cpu"]
    return ["probe", "background", *map(str, more), *shared]


def test_images_without_labels(
    gta: Any, check_fields: Any, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    given = [photos, "--masks", tmp_path / "masks", "--compare", tiny_model]
    done = gta(*words(tiny_model, tmp_path / "o", *given), "--json")
    assert done.status == 0
    first, second = done.lines
    for line in done.lines:
        check_fields(BackgroundResult, line)
        assert (line["task"], line["model"]) == ("background", str(tiny_model))
        assert (line["n_test"], line["n_pairs"], line["left_out"]) == (3, 3, 1)
        assert line["variants"] is line["bg_gap"] is None
        assert 0 <= line["fg_consistency"] <= 1
    assert "compared" not in first
    assert second["reference"] == str(tiny_model)
    test = second["compared"]["fg_consistency"]
    assert (test["difference"], test["p"], test["test"]) == (0, 1, "McNemar")
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["results"] == done.lines
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert record["command"] == "probe background"


def test_the_table(gta: Any, tiny_model: Path, in9: Path, tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    file.write_text(json.dumps({str(i): i % 3 - 1 for i in range(7)}))
    given = ["--variants", in9, "--mapping", file]
    done = gta(*words(tiny_model, tmp_path / "o", *given))
    assert done.status == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[:2] == [["images", "4"], ["%", "95", "%"]]
    assert [line[0] for line in lines[2:]] == [
        "original", "mixed-same", "mixed-rand", "BG-Gap", "same", "cosine",
    ]  # fmt: skip
    assert "left out" not in done.err
    both = gta(*words(tiny_model, tmp_path / "p", *given, "--compare", tiny_model))
    assert both.status == 0
    assert both.out.count("McNemar") == 4  # three variants and the same prediction
    assert both.out.count("paired permutation") == 2
    again = gta(*words(tiny_model, tmp_path / "in9", *given))  # a folder that is not a probe's
    assert again.status == 2
    assert "is not empty" in again.err


def test_a_mapping_goes_before_the_number_of_outputs(
    gta: Any, tiny_model: Path, in9: Path, tmp_path: Path
) -> None:
    """Two outputs without names for two classes, in the other order."""
    head = load_model(str(tiny_model), num_classes=2)
    with torch.no_grad():
        head.model.head.bias.copy_(torch.tensor([9.0, 0.0]))  # type: ignore[union-attr, operator]
    (tmp_path / "two").mkdir()
    save_file(
        {k: v.contiguous() for k, v in head.model.state_dict().items()},
        tmp_path / "two" / "model.safetensors",
        {"architecture": head.architecture, "kwargs": json.dumps(dict(head.kwargs or {}))},
    )
    shutil.rmtree(in9 / "original" / "val" / "00_dog")  # so that all accuracies are 0 or 1
    (tmp_path / "map.json").write_text(json.dumps({"0": 1, "1": 0}))
    given = [*words(tmp_path / "two", tmp_path / "o", "--variants", in9), "--json"]
    (line,) = gta(*given, "--mapping", str(tmp_path / "map.json")).lines
    assert line["variants"]["original"]["top1"] == 1
    assert gta(*given, "--mapping", str(tmp_path / "missing.json")).status == 2


def test_the_demo_has_masks(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    given = ["--data", "demo", "--backgrounds", "train", "--dry-run", "--batch-size", "3"]
    done = gta(*words(tiny_model, tmp_path / "o", *given), "--json")
    assert done.status == 0
    (line,) = done.lines
    assert (line["n_test"], line["variants"]) == (3, None)
    assert "has 7 classes, not the images' 12" in done.err
    assert not (tmp_path / "o").exists()


def test_images_that_cannot_be_processed_are_reported(
    gta: Any, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "masks" / "1.png").unlink()
    (photos / "2.png").write_bytes(b"nothing")
    given = [photos, "--masks", tmp_path / "masks"]
    done = gta(*words(tiny_model, tmp_path / "o", *given), "--json")
    assert done.status == 1
    *failed, line = done.lines
    assert [Path(one["image"]).name for one in failed] == ["1.png", "2.png"]
    assert "no ground truth for 1.png" in failed[0]["error"]
    assert line["n_test"] == 1
    assert line["cosine_interval"] is None  # one image has no spread


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "nothing is given"),
        (["--data", "demo", "--variants", "in9"], "--variants and --data are given"),
        (["photos"], "--masks: name the folder"),
        (["photos", "--masks", "away"], "--masks: no folder or file away"),
        (
            ["photos", "--masks", "masks", "--backgrounds", "train"],
            "--backgrounds: train needs --data",
        ),
        (["--variants", "in9", "--masks", "masks"], "needs no masks"),
        (["--variants", "in9"], "--mapping: .* has 7 classes, not the images' 2"),
        (["--variants", "photos"], "holds none of the folders"),
        (["--data", "tiny-data"], "--masks: tiny-data has no masks of its own"),
    ],
)
def test_wrong_usage(
    gta: Any,
    tiny_model: Path,
    tiny_data: Path,
    photos: Path,
    in9: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gta(*words(tiny_model, tmp_path / "o", *given))
    assert done.status == 2
    assert done.out == ""
    (line,) = (text for text in done.err.splitlines() if "loaded" not in text)
    assert re.search(message, line)
    assert not (tmp_path / "o").exists()
    assert gta("probe", "background", "photos").status == 2  # no model
