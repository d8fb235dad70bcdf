"""Tests of `gta segment` against ground truth, from folders and datasets."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gtacli.data.inputs import InputImage
from gtacli.discovery.build import make_backend
from gtacli.inference.objects import Finder
from gtacli.models import load_model
from gtacli.runtime.devices import choose_compute

GRID = 4  # of the tiny model, 32 pixels


@pytest.mark.usefixtures("bright")
def test_ground_truth(gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any) -> None:
    truth = scene(tmp_path / "in" / "exact.png")
    for name in ("half", "other-size", "missing"):
        scene(tmp_path / "in" / f"{name}.png")
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(truth).save(masks / "exact.png")
    wider = truth.copy()
    wider[16:48, 72:96] = True
    Image.fromarray(wider).save(masks / "half.png")
    Image.fromarray(truth[1:]).save(masks / "other-size.png")
    given = words(tiny_model, tmp_path / "out", tmp_path / "in")
    done = gta(*given, "--ground-truth", str(masks), "--json")
    assert done.status == 1
    exact, half, missing, other, last = done.lines
    assert exact["iou"] == 1
    assert half["iou"] == 0.5
    assert "no ground truth for missing.png" in missing["error"]
    assert "96 x 63 pixels, its image is 96 x 64" in other["error"]
    summary = last["summary"]
    assert summary["images"] == summary["failed"] == 2
    assert summary["mean_iou"] == 0.75
    assert summary["corloc"] == 1
    assert summary["accuracy"] == pytest.approx((1 + 7 / 8) / 2)
    assert summary["jaccard"] is None
    assert not (tmp_path / "out" / "missing.png").exists()
    people = gta(*given, "--ground-truth", str(masks), "--overwrite")
    assert "IoU 50.0 %" in people.out
    assert people.out.splitlines()[-1].split()[:4] == ["2", "2", "75.0", "100.0"]


BOX = (49, 17, 72, 48)  # what is bright in a scene of 64 x 96, as VOC writes it


def bndbox(box: tuple[int, int, int, int]) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return "".join(f"<{side}>{value}</{side}>" for side, value in sides)


@pytest.mark.usefixtures("bright")
def test_ids_void_and_boxes(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    """Of object 30 more than half lies under a void border; boxes count for CorLoc alone."""
    truth = scene(tmp_path / "in" / "a.png")
    labels = truth.astype(np.uint8) * 30
    labels[16:48, 48:61] = 255
    labels[60:, :] = 1
    image = Image.fromarray(labels)
    image.putpalette([255 * (i % 3 == 1) for i in range(3)] + list(range(255)) * 3)
    masks = tmp_path / "masks"
    masks.mkdir()
    image.save(masks / "a.png")
    scene(tmp_path / "in" / "b.png")
    text = f"<annotation><object><bndbox>{bndbox(BOX)}</bndbox></object></annotation>"
    (masks / "b.xml").write_text(text)
    scene(tmp_path / "in" / "c.png")
    (masks / "c.xml").write_text("<annotation></annotation>")
    for void in ("drop", "keep"):
        given = words(tiny_model, tmp_path / void, tmp_path / "in")
        done = gta(*given, "--ground-truth", str(masks), "--void", void, "--json")
        assert done.status == 0, done.err
        a, b, c, last = done.lines
        right = 32 * 11
        iou = right / (right + 4 * 96 + (32 * 13 if void == "keep" else 0))
        assert a["iou"] == pytest.approx(iou)
        assert a["located"] is False  # 11 of 24 columns
        assert "iou" not in b
        assert b["located"] is True
        assert "located" not in c
        assert last["summary"]["mean_iou"] == pytest.approx(iou)
        assert last["summary"]["corloc"] == 0.5


@pytest.mark.usefixtures("bright")
def test_a_dataset_with_masks(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    """A table names a mask for some; a folder of ground truth is asked before them."""
    for name in ("a", "b"):
        truth = scene(tmp_path / "set" / f"{name}.png")
    Image.fromarray(truth).save(tmp_path / "set" / "mask.png")
    table = tmp_path / "set" / "data.csv"
    table.write_text("path,label,mask\na.png,x,mask.png\nb.png,x,\n")
    given = words(tiny_model, tmp_path / "out")
    done = gta(*given, "--data", str(table), "--json")
    assert done.status == 0, done.err
    a, b, last = done.lines
    assert a["iou"] == 1
    assert "iou" not in b
    assert last["summary"]["mean_iou"] == last["summary"]["corloc"] == 1
    assert (tmp_path / "out" / "a.png").is_file()
    (tmp_path / "truth").mkdir()
    for name in ("a", "b"):
        Image.fromarray(~truth).save(tmp_path / "truth" / f"{name}.png")
    more = ["--data", str(table), "--ground-truth", str(tmp_path / "truth"), "--json"]
    lines = gta(*given, *more, "--overwrite").lines
    assert [x["iou"] for x in lines[:-1]] == [0, 0]
    scene(tmp_path / "c.png")
    named = words(tiny_model, tmp_path / "both", tmp_path / "c.png")
    lines = gta(*named, "--data", str(table), "--json").lines
    assert [PurePath(x["image"]).name for x in lines[:-1]] == ["c.png", "a.png", "b.png"]


@pytest.mark.usefixtures("bright")
def test_voc(gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any) -> None:
    """Boxes of trainval, an image without an object among them; classes of val."""
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    box, far = bndbox(BOX), bndbox((1, 2, 3, 4))
    for name, boxes in (("a", [far, box]), ("b", [far]), ("c", [])):
        truth = scene(base / "JPEGImages" / f"{name}.png")
        with Image.open(base / "JPEGImages" / f"{name}.png") as image:
            image.save(base / "JPEGImages" / f"{name}.jpg", quality=95)
        objects = "".join(f"<object><bndbox>{each}</bndbox></object>" for each in boxes)
        text = f"<annotation>{objects}</annotation>"
        (base / "Annotations" / f"{name}.xml").write_text(text)
    for lists in ("Main", "Segmentation"):
        (base / "ImageSets" / lists / "train.txt").write_text("a\nc\n")
        (base / "ImageSets" / lists / "val.txt").write_text("b\n")
    labels = truth * np.uint8(7)
    labels[:8] = 255
    labels[56:, 72:] = 20
    mask = Image.fromarray(labels)
    mask.putpalette([0, 0, 0] + [40, 80, 120] * 255)
    mask.save(base / "SegmentationClass" / "b.png")
    out = words(tiny_model, tmp_path / "out")
    done = gta(*out, "--data", f"voc/2012:{tmp_path}", "--json")
    assert done.status == 0, done.err
    *lines, last = done.lines
    assert [x.get("located") for x in lines] == [True, None, False]
    assert last["summary"]["corloc"] == 0.5
    assert last["summary"]["mean_iou"] is None
    spec = f"voc/2012-seg:{tmp_path}"
    (line, last) = gta(*out, "--data", spec, "--json", "--overwrite").lines
    assert line["iou"] == pytest.approx(768 / (768 + 8 * 24))
    missing = gta(*out, "--data", f"voc/2007:{tmp_path}", "--overwrite")
    assert missing.status == 2
    assert "VOCtrainval_06-Nov-2007.tar (460,032,000 bytes" in missing.err


def test_jaccard_is_of_the_best_head_of_each_class(
    gta: Any, tiny_model: Path, tmp_path: Path, words: Any
) -> None:
    """On the model's input, labels by nearest neighbour: by loops over its pixels."""
    from gtacli.images.decode import decode
    from gtacli.measures.attention import mass_mask
    from gtacli.models import attention

    rng = np.random.default_rng(2)
    blocks = rng.choice([0, 0, 5, 33, 255], (8, 7)).astype(np.uint8)
    labels = np.kron(blocks, np.ones((9, 11), np.uint8))
    (tmp_path / "masks").mkdir()
    mask = Image.fromarray(labels)
    mask.putpalette([0, 0, 0] + [40, 80, 120] * 255)
    mask.save(tmp_path / "masks" / "a.png")
    noise = rng.integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    model = load_model(str(tiny_model))
    finder = Finder(model, make_backend("dino", {}, model), choose_compute("cpu", "auto"))
    view = finder.read(InputImage(str(tmp_path / "a.png"), PurePath("a.png")))
    (tap,) = attention(model.model, finder.as_input(view.pixels[None]))  # type: ignore[union-attr]
    heads = mass_mask(tap.maps()[0], 0.6).numpy()
    assert decode(tmp_path / "a.png").size == labels.shape[::-1]
    for void in ("drop", "keep"):
        best = {5: 0.0, 33: 0.0}
        for number in best:
            for head in heads:
                both = either = 0
                for y in range(32):
                    for x in range(32):
                        row, column = (2 * y + 1) * 72 // 64, (2 * x + 1) * 77 // 64
                        label = labels[row, column]
                        if label == 255 and void == "drop":
                            continue
                        found = head[y * GRID // 32, x * GRID // 32]
                        both += found and label == number
                        either += found or label == number
                best[number] = max(best[number], both / either)
        more = ["--ground-truth", str(tmp_path / "masks"), "--void", void, "--json"]
        given = words(tiny_model, tmp_path / void, tmp_path / "a.png", backend="dino")
        summary = gta(*given, *more).lines[-1]["summary"]
        assert summary["jaccard"] == pytest.approx(sum(best.values()) / 2)
