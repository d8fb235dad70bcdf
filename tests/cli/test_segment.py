"""`gta segment` as a user and a script meet it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from gtacli.data.inputs import Named
from gtacli.discovery import Discovery, Found
from gtacli.discovery.base import unit_range
from gtacli.discovery.build import make_backend
from gtacli.finding import Finder
from gtacli.models import load_model
from gtacli.registry import DISCOVERY
from gtacli.segmentation import Output, segment
from gtacli.training.devices import choose_compute

GRID = 4  # of the tiny model, 32 pixels


class Bright(Discovery[Any]):
    """What is brighter than the middle between dark and bright; as a plug-in would."""

    def find(self, images: Tensor) -> Found:
        maps = unit_range(adaptive_avg_pool2d(images.mean(1), GRID))
        return Found(maps, maps > 0.5)


@pytest.fixture
def bright() -> Iterator[None]:
    with DISCOVERY.registered("bright", Bright):
        yield


def scene(path: Path, size: tuple[int, int] = (64, 96)) -> NDArray[np.bool_]:
    """A picture (height, width) with an object of 2 x 1 patches; where it is."""
    h, w = size
    mask = np.zeros(size, bool)
    mask[h // GRID : 3 * h // GRID, 2 * w // GRID : 3 * w // GRID] = True
    pixels = np.where(mask[..., None], (250, 240, 230), (10, 20, 30)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return mask


def words(model: Path, out: Path, *images: object, backend: str = "bright") -> list[str]:
    shared = ["-m", str(model), "-o", str(out), "--backend", backend, "--device", "cpu"]
    return ["segment", *map(str, images), *shared]


def read(path: str) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


@pytest.mark.usefixtures("bright")
def test_masks_and_boxes_are_those_of_the_image_itself(
    gta: Any, tiny_model: Path, tmp_path: Path
) -> None:
    truth = scene(tmp_path / "in" / "a.png")
    with Image.open(tmp_path / "in" / "a.png") as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        image.save(tmp_path / "in" / "turned.jpg", exif=exif, quality=95)
    done = gta(*words(tiny_model, tmp_path / "out", tmp_path / "in"), "--json")
    assert done.status == 0
    plain, turned, summary = done.lines
    assert plain["box"] == [48, 16, 72, 48]
    assert plain["area"] == pytest.approx(1 / 8)
    assert (read(plain["mask"]) == truth * np.uint8(255)).all()
    assert turned["box"] == [16, 48, 48, 72]
    assert (read(turned["mask"]) == np.rot90(truth, -1) * np.uint8(255)).all()
    assert set(summary["summary"]) == {"images", "failed", "images_per_second"}
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["config"]["backend"] == "bright"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["images"] == 2


@pytest.mark.usefixtures("bright")
def test_folders_and_order_are_kept_and_bad_images_named(
    gta: Any, tiny_model: Path, tmp_path: Path
) -> None:
    root = tmp_path / "in"
    for name in ("b/2.png", "a/1.png", "a/deep/x.y.png"):
        scene(root / name)
    whole = (root / "a" / "1.png").read_bytes()
    (root / "a" / "cut.png").write_bytes(whole[:60])
    (root / "a" / "text.jpg").write_text("no image")
    (root / "b" / "1.jpg").write_bytes(whole)  # a PNG by its content
    more = ["--json", "--batch-size", "2", "--overlay"]
    done = gta(*words(tiny_model, tmp_path / "out", root, tmp_path / "missing.png"), *more)
    assert done.status == 1
    *lines, last = done.lines
    names = [PurePath(x["image"]).relative_to(tmp_path).as_posix() for x in lines]
    assert names == [
        "in/a/1.png", "in/a/cut.png", "in/a/deep/x.y.png", "in/a/text.jpg", "in/b/1.jpg",
        "in/b/2.png", "missing.png",
    ]  # fmt: skip
    bad = [x for x in lines if "error" in x]
    assert [PurePath(x["image"]).name for x in bad] == ["cut.png", "text.jpg", "missing.png"]
    assert all(x["image"] in done.err for x in bad)
    out = tmp_path / "out"
    written = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    stems = {"a/1", "a/deep/x.y", "b/1", "b/2"}
    expected = {f"{s}{end}" for s in stems for end in (".png", ".overlay.jpg")}
    assert written == expected | {"run.json", "summary.json"}
    assert last["summary"]["images"] == 4
    assert last["summary"]["failed"] == 3


@pytest.mark.usefixtures("bright")
def test_ground_truth(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
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
    assert people.out.splitlines()[-1].split()[:4] == ["2", "2", "75", "100"]


@pytest.mark.usefixtures("bright")
def test_ids_void_and_boxes(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
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


BOX = (49, 17, 72, 48)  # what is bright in a scene of 64 x 96, as VOC writes it


def bndbox(box: tuple[int, int, int, int]) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return "".join(f"<{side}>{value}</{side}>" for side, value in sides)


@pytest.mark.usefixtures("bright")
def test_a_data_set_with_masks(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
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


class Corners(Discovery[Any]):
    """Three objects an image, of which the last is often empty; as a plug-in would."""

    def find(self, images: Tensor) -> Found:
        maps = unit_range(adaptive_avg_pool2d(images.mean(1), GRID))
        bright = maps > 0.5
        corner = bright.new_zeros(bright.shape)
        corner[:, 0, 0] = True
        objects = torch.stack([bright, corner & ~bright, bright & False], 1)
        return Found(maps, objects[:, 0], objects=objects)


def test_several_objects(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
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
    assert {k: a[k] for k in ("mask", "box", "area")} == first
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


def test_tokencut_of_several_objects(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        scene(tmp_path / "in" / f"{i}.png")
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 64)).save(tmp_path / "in" / f"n{i}.png")
    given = words(tiny_model, tmp_path / "out", tmp_path / "in", backend="tokencut")
    done = gta(*given, "--objects", "3", "--json", "--image-size", "64", "--tau", "0.9")
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
    kind: str, gta: Any, tiny_model: Path, tmp_path: Path
) -> None:
    scene(tmp_path / "a.png")
    given = ["segment", str(tmp_path / "a.png"), "-m", str(tiny_model), "-o", str(tmp_path / "out")]
    done = gta(*given, "--kind", kind, "--set", "discovery.dino.heads=mean", "--json")
    assert done.status == 0, done.err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["config"]["backend"] == "dino"
    assert record["config"]["discovery"]["dino"]["heads"] == "mean"


def test_models_are_compared_on_the_same_images(
    gta: Any, tiny_model: Path, other_model: Path, tmp_path: Path
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
def test_a_sheet_without_truth_and_of_few_images(
    gta: Any, tiny_model: Path, tmp_path: Path
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


def odd(kind: str, path: Path) -> Path:
    """A picture of an unusual kind."""
    scene(path / "plain.png")
    image = Image.open(path / "plain.png")
    if kind == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(path / "odd.png")
    elif kind == "CMYK":
        image.convert("CMYK").save(path / "odd.jpg", quality=95)
    elif kind == "1x1":
        image.resize((1, 1)).save(path / "odd.png")
    elif kind == "long":
        image.resize((20000, 20)).save(path / "odd.png")
    else:
        image.convert(kind, dither=Image.Dither.NONE).save(path / "odd.png")
    return next(path.glob("odd.*"))


@pytest.mark.parametrize("refine", ["none", "bilateral", "guided"])
@pytest.mark.parametrize("kind", ["L", "1", "RGBA", "P", "CMYK", "I;16", "1x1", "long"])
@pytest.mark.usefixtures("bright")
def test_odd_images(kind: str, refine: str, gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    path = odd(kind, tmp_path)
    given = words(tiny_model, tmp_path / "out", path)
    done = gta(*given, "--json", "--refine", refine, "--overlay")
    assert done.status == 0, done.err
    line = done.lines[0]
    with Image.open(path) as image:
        assert read(line["mask"]).shape == (image.height, image.width)
    if kind == "1x1":
        assert line["box"] is None or line["box"] == [0, 0, 1, 1]
    elif kind == "long":
        if refine == "none":
            assert line["box"] == [10000, 5, 15000, 15]
    else:
        assert line["box"] == pytest.approx([48, 16, 72, 48], abs=2)


def test_odd_images_side_by_side(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    """Of every kind at once, several objects each, by two models, on a sheet."""
    for kind in ("L", "RGBA", "CMYK", "I;16", "1x1", "long"):
        odd(kind, tmp_path / "in" / kind.replace(";", ""))
    (tmp_path / "in" / "cut.jpg").write_bytes((tmp_path / "in/CMYK/odd.jpg").read_bytes()[:200])
    given = words(tiny_model, tmp_path / "out", tmp_path / "in", backend="tokencut")
    done = gta(*given, "--json", "--objects", "2", "--compare", str(tiny_model), "--tau", "0.9")
    assert done.status == 1
    results = [x for x in done.lines if "image" in x]
    assert [PurePath(x["image"]).name for x in results if "error" in x] == ["cut.jpg"]
    assert len(results) == 1 + 2 * 12
    sheet = next(x["sheet"] for x in done.lines if "sheet" in x)
    with Image.open(sheet) as drawn:
        assert drawn.height > 200


@pytest.mark.usefixtures("bright")
def test_voc(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
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
    gta: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """On the model's input, labels by nearest neighbour: by loops over its pixels."""
    from gtacli.data.images import decode
    from gtacli.discovery.dino import mass_mask
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
    view = finder.read(Named(str(tmp_path / "a.png"), PurePath("a.png")))
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


@pytest.mark.parametrize("refine", ["bilateral", "guided"])
@pytest.mark.usefixtures("bright")
def test_large_images_are_refined_too(
    refine: str, gta: Any, tiny_model: Path, tmp_path: Path
) -> None:
    truth = scene(tmp_path / "a.png", (1300, 2400))
    given = words(tiny_model, tmp_path / "out", tmp_path / "a.png")
    line = gta(*given, "--json", "--refine", refine, "--overlay").lines[0]
    found = read(line["mask"]) > 0
    assert (found & truth).sum() > 0.98 * (found | truth).sum()
    with Image.open(line["overlay"]) as overlay:
        assert overlay.size == (2048, 1109)


@pytest.mark.usefixtures("bright")
def test_a_refinement_that_leaves_nothing_is_not_taken(
    gta: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = scene(tmp_path / "a.png")
    monkeypatch.setattr("gtacli.segmentation.finish.bilateral", lambda image, target: target * 0.4)
    given = words(tiny_model, tmp_path / "out", tmp_path / "a.png")
    done = gta(*given, "--json", "--refine", "bilateral")
    assert (read(done.lines[0]["mask"]) == truth * np.uint8(255)).all()


@pytest.mark.parametrize("name", ["tokencut", "dino", "gradcam"])
def test_every_backend(name: str, gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    for i in range(3):
        truth = scene(tmp_path / "in" / f"{i}.png", (50 + i, 70))
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(truth).save(tmp_path / "masks" / f"{i}.png")
    more = ["--ground-truth", str(tmp_path / "masks"), "--json", "--layer", "-2"]
    results = []
    for threads in ("0", "3"):
        out = tmp_path / f"out{threads}"
        given = words(tiny_model, out, tmp_path / "in", backend=name)
        done = gta(*given, *more, "--workers", threads, "--image-size", "32x48")
        assert done.status == 0, done.err
        figures = {k: v for k, v in done.lines[-1]["summary"].items() if k != "images_per_second"}
        assert (figures["jaccard"] is None) == (name != "dino")
        results.append(([(x["box"], x["area"], x["iou"]) for x in done.lines[:-1]], figures))
    assert results[0] == results[1]


@pytest.mark.usefixtures("bright")
def test_no_mask_overwrites_another_or_an_image(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    scene(tmp_path / "in" / "a.png")
    scene(tmp_path / "in" / "a.bmp")
    done = gta(*words(tiny_model, tmp_path / "out", tmp_path / "in"), "--json")
    assert done.status == 1
    assert "another image has its mask in a.png already" in done.lines[1]["error"]
    (tmp_path / "in" / "run.json").write_text("{}")
    before = (tmp_path / "in" / "a.png").read_bytes()
    own = words(tiny_model, tmp_path / "in", tmp_path / "in" / "a.png")
    done = gta(*own, "--json", "--overwrite")
    assert done.status == 1
    assert "its mask would overwrite it" in done.lines[0]["error"]
    assert (tmp_path / "in" / "a.png").read_bytes() == before


def test_what_is_wrong_is_said_first(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    scene(image)
    out = tmp_path / "out"
    base = words(tiny_model, out, image, backend="tokencut")
    dino = words(tiny_model, out, image, backend="dino")
    used = words(tiny_model, tmp_path, image, backend="tokencut")
    headless = tmp_path / "headless"
    headless.mkdir()
    cases = {
        "--model: name a pre-trained ViT": ["segment", str(image)],
        "did you mean 'tokencut'": words(tiny_model, out, image, backend="tokencutt"),
        "--ground-truth: no folder": [*base, "--ground-truth", str(out / "none")],
        "is not empty; choose another folder or --overwrite": used,
        "holds no earlier run, so it is not overwritten": [*used, "--overwrite"],
        "there is no block 9": [*base, "--layer", "9"],
        "no multiple of the patch size": [*base, "--image-size", "33"],
        "needs a classifier head": [
            "segment", str(image), "-m", str(_without_head(tiny_model, headless)), "-o", str(out),
            "--backend", "gradcam",
        ],
        "the backend dino finds one object an image": [*dino, "--objects", "2"],
        "the backend gradcam finds one object an image": [
            *words(tiny_model, out, image, backend="gradcam"), "--objects", "2",
        ],
        "two names of one option": [*dino, "--kind", "attention"],
        "--compare resnet18@none: ": [*base, "--compare", "resnet18@none"],
        "--compare vit_tinny": [*base, "--compare", str(tiny_model), "vit_tinny_patch16_224@none"],
        "--tau: must be at least 0 for several objects": [*base, "--objects", "2", "--tau", "-0.5"],
        "no such file or folder": [*base, "--data", str(tmp_path / "nowhere")],
        "no images": words(tiny_model, out, backend="tokencut"),
        "no image in": words(tiny_model, out, headless / "*.gif", backend="tokencut"),
    }  # fmt: skip
    for message, given in cases.items():
        done = gta(*given)
        assert done.status == 2, message
        assert message in done.err
        assert done.err.count("error:") == 1
        assert not out.exists()


def _without_head(model: Path, folder: Path) -> Path:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(model / "model.safetensors", "pt") as f:
        tensors = {k: f.get_tensor(k) for k in f.keys() if not k.startswith("head.")}  # noqa: SIM118
        metadata = {**f.metadata(), "num_classes": "0"}
    save_file(tensors, folder / "model.safetensors", metadata)
    return folder


@pytest.mark.usefixtures("bright")
def test_a_dry_run_writes_nothing(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    scene(tmp_path / "a.png")
    done = gta(*words(tiny_model, tmp_path / "out", tmp_path / "a.png"), "--json", "--dry-run")
    assert done.status == 0
    assert done.lines[0]["mask"] is None
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("bright")
def test_a_file_in_the_way_ends_the_run(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    scene(tmp_path / "in" / "x" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{}")
    (tmp_path / "out" / "x").write_text("a file")
    done = gta(*words(tiny_model, tmp_path / "out", tmp_path / "in"), "--overwrite")
    assert done.status == 3
    assert "--out: cannot write" in done.err
    assert "Traceback" not in done.err


def test_paths_from_a_pipe(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b c.png"):
        scene(tmp_path / "in" / name)
    gta = [sys.executable, "-m", "gtacli", "segment", "-", "-0", "-m", str(tiny_model)]
    done = subprocess.run(
        [*gta, "--json", "-q", "-o", "out"],
        input=b"in/b c.png\0in/a.png\0",
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [PurePath(x["mask"]).as_posix() for x in lines[:2]] == ["out/in/b c.png", "out/in/a.png"]
    assert all((tmp_path / x["mask"]).is_file() for x in lines[:2])


@pytest.mark.usefixtures("bright")
def test_an_endless_stream_is_read_as_it_is_needed(tiny_model: Path, tmp_path: Path) -> None:
    scene(tmp_path / "a.png")
    model = load_model(str(tiny_model))
    taken = count()
    endless = (Named(str(tmp_path / "a.png"), PurePath(f"{next(taken)}.png")) for _ in count())
    output = Output(tmp_path / "out")
    compute = choose_compute("cpu", "auto")
    finder = Finder(model, make_backend("bright", {}, model), compute)
    results = segment([finder], endless, output, 2)
    first = list(islice(results, 5))
    results.close()  # type: ignore[attr-defined]
    assert [Path(x["mask"]).name for x in first] == [f"{i}.png" for i in range(5)]
    assert next(taken) <= 5 + 4 * 2 + 2


@pytest.mark.usefixtures("own_cache")
def test_layer_and_tau_are_chosen_once_and_recorded(
    gta: Any, tiny_model: Path, tmp_path: Path
) -> None:
    scene(tmp_path / "in" / "a.png")
    said = []
    for out in ("one", "two"):
        done = gta(*words(tiny_model, tmp_path / out, tmp_path / "in", backend="tokencut"))
        assert done.status == 0
        said.append(done.err)
    assert "choosing layer and tau" in said[0]
    assert "choosing layer and tau" not in said[1]
    assert "as chosen before" in said[1]
    one, two = (
        json.loads((tmp_path / n / "run.json").read_text())["options"] for n in ("one", "two")
    )
    assert one == two
    (options,) = one.values()
    assert f"layer {options['layer']}, tau {options['tau']:g}" in said[1]
