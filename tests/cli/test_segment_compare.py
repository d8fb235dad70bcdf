"""Tests of `gta segment` with several objects per image, and with several models."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from gtacli.discovery import Discovery, ObjectMaps
from gtacli.discovery.base import unit_range
from gtacli.registry import DISCOVERY

GRID = 4  # of the tiny model, 32 pixels


class Corners(Discovery[Any]):
    """Three objects an image, of which the last is often empty; as a plug-in would."""

    def find(self, images: Tensor) -> ObjectMaps:
        maps = unit_range(adaptive_avg_pool2d(images.mean(1), GRID))
        bright = maps > 0.5
        corner = bright.new_zeros(bright.shape)
        corner[:, 0, 0] = True
        objects = torch.stack([bright, corner & ~bright, bright & False], 1)
        return ObjectMaps(maps, objects[:, 0], objects=objects)


def test_several_objects(
    gta: Any, tiny_model: Path, tmp_path: Path, read: Any, scene: Any, words: Any
) -> None:
    truth = scene(tmp_path / "in" / "a.png")
    Image.new("RGB", (96, 64), (9, 9, 9)).save(tmp_path / "in" / "b.png")  # the corner alone
    corner = np.zeros((64, 96), bool)
    corner[:16, :24] = True
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(corner).save(masks / "a.png")
    Image.fromarray(corner).save(masks / "b.png")
    given = words(tiny_model, tmp_path / "out", tmp_path / "in", backend="corners")
    with DISCOVERY.registered("corners", Corners):
        done = gta(*given, "--json", "--overlay", "--ground-truth", str(masks))
    assert done.status == 0, done.err
    a, b, last = done.lines
    first, second = a["objects"]
    assert {k: a[k] for k in ("mask", "box", "area", "confidence")} == first
    assert first["box"] == [48, 16, 72, 48]
    assert second["box"] == [0, 0, 24, 16]
    assert PurePath(second["mask"]).name == "a.object2.png"
    assert (read(second["mask"]) == corner * np.uint8(255)).all()
    assert (read(first["mask"]) == truth * np.uint8(255)).all()
    assert a["iou"] == 0  # of the main object
    assert a["located"] is True  # by the second one
    assert b["box"] == [0, 0, 24, 16]  # the first that there is
    assert len(b["objects"]) == 1
    assert last["summary"]["corloc"] == 1


def test_tokencut_of_several_objects(
    gta: Any, tiny_model: Path, tmp_path: Path, read: Any, scene: Any, words: Any
) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        scene(tmp_path / "in" / f"{i}.png")
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 64)).save(tmp_path / "in" / f"n{i}.png")
    given = words(tiny_model, tmp_path / "out", tmp_path / "in", backend="tokencut")
    done = gta(
        *given, "--objects", "3", "--json", "--image-size", "64", "--layer", "-1", "--tau", "0.9"
    )
    assert done.status == 0, done.err
    counts = [len(x["objects"]) for x in done.lines[:-1]]
    assert max(counts) > 1
    for line in done.lines[:-1]:
        masks = [read(x["mask"]) > 0 for x in line["objects"]]
        assert not masks or (np.sum(masks, axis=0) <= 1).all()
    plain = gta(*given, "--json", "--overwrite").lines
    assert all("objects" not in x for x in plain)


@pytest.mark.parametrize("kind", ["dino", "attention"])
def test_kind_is_another_name_for_the_backend(
    kind: str, gta: Any, tiny_model: Path, tmp_path: Path, scene: Any
) -> None:
    scene(tmp_path / "a.png")
    given = ["segment", str(tmp_path / "a.png"), "-m", str(tiny_model), "-o", str(tmp_path / "out")]
    done = gta(*given, "--kind", kind, "--set", "discovery.dino.heads=mean", "--json")
    assert done.status == 0, done.err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["config"]["backend"] == "dino"
    assert record["config"]["discovery"]["dino"]["heads"] == "mean"


def test_models_are_compared_on_the_same_images(
    gta: Any, tiny_model: Path, other_model: Path, tmp_path: Path, scene: Any
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for i in range(10):
        truth = scene(tmp_path / "in" / f"{i}.png", (64 + i, 96 - i))
        Image.fromarray(truth).save(masks / f"{i}.png")
    (tmp_path / "in" / "x.png").write_text("no image")
    alone = {}
    truth_ = ["--ground-truth", str(masks), "--kind", "attention"]
    for model in (tiny_model, other_model):
        out = tmp_path / f"alone-{model.name}"
        given = ["segment", str(tmp_path / "in"), "-m", str(model), "-o", str(out)]
        lines = gta(*given, *truth_, "--image-size", "32", "--json").lines
        alone[model.name] = lines
    given = ["segment", str(tmp_path / "in"), *truth_, "-o", str(tmp_path / "out")]
    more = ["-m", str(tiny_model), "--compare", str(other_model), str(other_model)]
    done = gta(*given, *more, "--json")
    assert done.status == 1
    *lines, sheet, first, second, third = done.lines
    names = [x["summary"]["model"] for x in (first, second, third)]
    assert names == ["tiny-model", "other-model", "other-model-2"]
    for name, summary in zip(names, (first, second, third), strict=True):
        expected = alone[name.removesuffix("-2")]
        mine = [x for x in lines if x.get("model") == name]
        assert [x["box"] for x in mine] == [x["box"] for x in expected if "box" in x]
        assert all(PurePath(x["mask"]).parent == PurePath(tmp_path / "out" / name) for x in mine)
        figures = {**expected[-1]["summary"], "model": name}
        del figures["images_per_second"], summary["summary"]["images_per_second"]
        assert summary["summary"] == pytest.approx(figures)
    assert len([x for x in lines if "error" in x]) == 1
    with Image.open(sheet["sheet"]) as drawn:
        assert drawn.width > 5 * 200
    people = gta(*given, *more, "--overwrite")
    head, *table = people.out.splitlines()
    assert head.split("  ")[0].strip() == "model"
    assert [row.split("  ")[0] for row in table] == names
    assert len(json.loads((tmp_path / "out" / "summary.json").read_text())["models"]) == 3


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """Another tiny ViT, whose own input is larger."""
    import timm
    from safetensors.torch import save_file

    kwargs = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 48, "patch_size": 8}
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **kwargs)
    folder = tmp_path / "other-model"
    folder.mkdir()
    metadata = {"architecture": "vit_tiny_patch16_224", "kwargs": json.dumps(kwargs)}
    metadata |= {"num_classes": "5", "image_size": "[48, 48]"}
    save_file(model.state_dict(), folder / "model.safetensors", metadata)
    return folder


@pytest.mark.usefixtures("bright")
def test_a_sheet_without_ground_truth_and_of_few_images(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    scene(tmp_path / "in" / "a.png")
    given = words(tiny_model, tmp_path / "out", tmp_path / "in")
    done = gta(*given, "--json", "--compare", str(tiny_model))
    a, b, sheet, first, _ = done.lines
    assert (a["model"], b["model"]) == ("tiny-model", "tiny-model-2")
    assert "mean_iou" not in first["summary"]
    with Image.open(sheet["sheet"]) as drawn:
        assert drawn.width < 4 * 240  # no column for a truth
    dry = gta(*words(tiny_model, tmp_path / "dry", tmp_path / "in"), "--json", "--dry-run",
              "--compare", str(tiny_model))  # fmt: skip
    assert dry.status == 0
    assert not any("sheet" in x for x in dry.lines)
