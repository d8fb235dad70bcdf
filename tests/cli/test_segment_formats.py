"""Tests of `gta segment --format`: annotations of the same objects, read back."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor

from gtacli.cli import console
from gtacli.discovery import Discovery, ObjectMaps
from gtacli.registry import DISCOVERY

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
Run = Callable[..., Any]
FORMATS = ["coco", "voc", "yolo", "label-studio"]
TRUTH = {
    "coco": "annotations.json",
    "voc": "SegmentationObject",
    "yolo": "labels",
    "label-studio": "tasks.json",
}
OBJECTS = np.zeros((2, 4, 4), bool)
OBJECTS[0, :3, :3] = True
OBJECTS[0, 1, 1] = False  # a hole
OBJECTS[1, 3, 1:3] = OBJECTS[1, 0, 3] = True  # two parts


class TwoObjects(Discovery[Any]):
    """The same two objects in every image."""

    def find(self, images: Tensor) -> ObjectMaps:
        maps = images.new_tensor(OBJECTS[0]).expand(len(images), -1, -1)
        objects = images.new_tensor(OBJECTS).bool().expand(len(images), -1, -1, -1)
        return ObjectMaps(maps, maps > 0.5, objects=objects)


@pytest.fixture
def run(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for i in range(9):
        scene(Path("in") / "a b" / f"é{i}.png", (50 + i, 71))
    scene(Path("in") / "a b" / "é0.bmp", (30, 40))
    Path("in/broken.jpg").write_text("no image")

    def call(out: str, *more: str, backend: str = "two") -> Any:
        with DISCOVERY.registered("two", TwoObjects):
            rest = ["--refine", "none", "--batch-size", "2", "--json", *more]
            return gta(*words(tiny_model, Path(out), "in", backend=backend), *rest)

    return call


def pixels(size: tuple[int, int]) -> list[NDArray[np.bool_]]:
    rows, columns = ((2 * np.arange(n) + 1) * 4 // (2 * n) for n in size)
    return [one[rows[:, None], columns] for one in OBJECTS]


def files(out: str) -> dict[str, bytes]:
    names = (p.relative_to(out).as_posix() for p in Path(out).rglob("*") if p.is_file())
    kept = [name for name in names if name not in ("run.json", "summary.json", "journal.jsonl")]
    return {name: Path(out, name).read_bytes() for name in kept}


def test_coco_is_read_by_pycocotools(run: Run, capsys: Any) -> None:
    done = run("out", "--format", "coco", "--category", "bird")
    assert done.status == 1  # of the broken image
    coco = COCO("out/annotations.json")
    capsys.readouterr()
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["bird"]
    images = coco.loadImgs(coco.getImgIds())
    assert [one["file_name"] for one in images] == [
        "a b/é0.bmp", *(f"a b/é{i}.png" for i in range(9))
    ]  # fmt: skip
    lines = {line["image"]: line for line in done.lines if "box" in line}
    for image in images:
        size = image["height"], image["width"]
        ours = coco.loadAnns(coco.getAnnIds(image["id"]))
        told = lines["in/" + image["file_name"]]["objects"]
        for one, mask, line in zip(ours, pixels(size), told, strict=True):
            assert (coco.annToMask(one) == mask).all()
            assert one["area"] == mask.sum()
            x, y, w, h = one["bbox"]
            assert [x, y, x + w, y + h] == line["box"]
            assert one["score"] == line["confidence"]
            assert line["mask"] is None
    assert len({one["id"] for one in coco.anns.values()}) == 20
    assert {*files("out")} == {"annotations.json"}


def test_coco_polygons_hold_holes_and_parts(run: Run, capsys: Any) -> None:
    run("out", "--format", "coco", "--outline", "polygon")
    coco = COCO("out/annotations.json")
    capsys.readouterr()
    for image in coco.imgs.values():
        ours = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert [len(one["segmentation"]) for one in ours] == [1, 2]
        for one, mask in zip(ours, pixels((image["height"], image["width"])), strict=True):
            assert (coco.annToMask(one) == mask).all()


def test_voc(run: Run) -> None:
    done = run("out", "--format", "voc")
    assert {name.split("/")[0] for name in files("out")} == {
        "Annotations", "SegmentationClass", "SegmentationObject"
    }  # fmt: skip
    line = done.lines[1]
    xml, classes, objects = line["files"]
    root = ElementTree.parse(xml).getroot()
    assert root.findtext("filename") == Path(line["image"]).name
    boxes = [[int(b.text or 0) for b in o.iterfind("bndbox/*")] for o in root.iterfind("object")]
    assert [[a - 1, b - 1, c, d] for a, b, c, d in boxes] == [o["box"] for o in line["objects"]]
    with Image.open(objects) as picture:
        assert picture.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # VOC's
        ids = np.asarray(picture)
    one, two = pixels(ids.shape)
    assert (ids == np.where(one, 1, 2 * two)).all()
    with Image.open(classes) as picture:
        assert (np.asarray(picture) == (ids > 0)).all()


@pytest.mark.parametrize("outline", ["rle", "polygon"])
def test_label_studio(run: Run, outline: str) -> None:
    run("out", "--format", "label-studio", "--outline", outline, "--url-prefix", "s3://b/")
    tasks = json.loads(Path("out/tasks.json").read_text())
    assert tasks[0]["data"] == {"image": "s3://b/a%20b/%C3%A90.bmp"}
    config = ElementTree.parse("out/label-config.xml").getroot()
    image, labels = config
    for task in tasks:
        for region in task["predictions"][0]["result"]:
            assert region["from_name"] == labels.get("name")
            assert region["to_name"] == image.get("name")
            assert region["type"] == labels.tag.lower()
            assert region["value"][region["type"]] == [labels[0].get("value")]
    assert image.get("value") == "$image"


@pytest.mark.parametrize("kind", FORMATS)
def test_annotations_are_ground_truth(run: Run, kind: str) -> None:
    run("out", "--format", kind, "--objects", "1", backend="tokencut")
    scored = run("scored", "--ground-truth", f"out/{TRUTH[kind]}", backend="tokencut")
    lines = [line for line in scored.lines if "box" in line]
    assert len(lines) == 10
    assert all(line.get("iou", 1) == 1 for line in lines)
    assert any(line["box"] for line in lines)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_without_an_object(run: Run, kind: str) -> None:
    done = run("out", "--format", kind, "--min-confidence", "1")
    assert all(line["objects"] == [] for line in done.lines if "objects" in line)
    scored = run("scored", "--ground-truth", f"out/{TRUTH[kind]}", "--min-confidence", "1")
    assert scored.lines[-1]["summary"]["images"] == 10


@pytest.mark.parametrize("kind", FORMATS)
def test_a_resumed_run_has_the_files_of_an_undisturbed_one(
    run: Run, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("whole", "--format", kind)
    emit, left = console.emit, 4

    def interrupted(result: Any) -> None:
        nonlocal left
        emit(result)
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(console, "emit", interrupted)
        assert run("stopped", "--format", kind, "--workers", "0").status == 130
    before, whole = files("stopped"), files("whole")
    assert before.keys() <= whole.keys()  # what is done is there
    assert before != whole
    if kind == "coco":
        assert 0 < len(json.loads(before["annotations.json"])["images"]) < 10
    assert run("stopped", "--format", kind, "--resume").status == 1
    assert files("stopped") == whole
    if kind in ("voc", "yolo"):
        lost = next(name for name in whole if name.endswith((".txt", ".png")))
        Path("stopped", lost).unlink()
        run("stopped", "--format", kind, "--resume")
        assert files("stopped") == whole


def test_other_formats_are_other_runs(run: Run) -> None:
    run("out", "--format", "coco")
    done = run("out", "--format", "yolo", "--resume")
    assert done.status == 2
    assert "`format` is yolo" in done.err or "--format is yolo" in done.err


def test_what_does_not_fit_is_refused(run: Run) -> None:
    done = run("out", "--format", "coco", "--compare", "demo")
    assert done.status == 2
    assert "not with --compare" in done.err
    done = run("out.json", "--format", "coco")
    assert done.status == 2
    assert "is a folder in this format" in done.err


def test_a_dry_run_writes_nothing(run: Run) -> None:
    assert run("out", "--format", "coco", "--dry-run").status in (0, 1)
    assert not Path("out").exists()
