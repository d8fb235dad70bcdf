"""Tests of VOC and COCO 20k against torchvision's readers and LOST's rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCDetection, VOCSegmentation

from gtacli.data import load_dataset
from gtacli.data.base import ImageDataset
from gtacli.data.spec import read_dataset
from gtacli.data.truth import read_record_truth
from gtacli.errors import GtaError
from gtacli.measures.segmentation import VOID

SIZE = (30, 40)  # width, height
OBJECTS: dict[str, list[dict[str, Any]]] = {
    "000001": [{"name": "dog", "box": (1, 1, 30, 40)}, {"name": "cat", "box": (5, 6, 9, 9)}],
    "000002": [{"name": "car", "box": (3, 4, 8, 20), "truncated": 1}],
    "000003": [
        {"name": "car", "box": (3, 4, 8, 20), "difficult": 1},
        {"name": "dog", "box": (2, 2, 12, 13)},
    ],
    "000004": [{"name": "sofa", "box": (2, 2, 12, 13), "difficult": 1, "truncated": 1}],
    "000005": [{"name": "sofa", "box": (2, 2, 12, 13)}],
}
LISTS = {"train": ["000001", "000002"], "val": ["000003", "000004"], "test": ["000005"]}


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """ROOT with VOCdevkit of both years, as in the archives."""
    for year in ("2007", "2012"):
        base = tmp_path / "VOCdevkit" / f"VOC{year}"
        for folder in ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationObject"):
            (base / folder).mkdir(parents=True)
        for lists in ("Main", "Segmentation"):
            (base / "ImageSets" / lists).mkdir(parents=True)
            for part, names in {**LISTS, "trainval": LISTS["train"] + LISTS["val"]}.items():
                if part == "test" and year == "2012":
                    continue
                chosen = names if lists == "Main" else names[:1]
                text = "".join(f"{name}\n" for name in chosen)
                (base / "ImageSets" / lists / f"{part}.txt").write_text(text)
        # The archives also contain lists of classes.
        (base / "ImageSets" / "Main" / "dog_train.txt").write_text("000001  1\n000002 -1\n")
        for name, objects in OBJECTS.items():
            Image.new("RGB", SIZE, (9, 99, 9)).save(base / "JPEGImages" / f"{name}.jpg")
            (base / "Annotations" / f"{name}.xml").write_text(annotation(name, objects))
            for k, folder in enumerate(("SegmentationClass", "SegmentationObject")):
                labels = np.zeros(SIZE[::-1], np.uint8)
                labels[2:20, 3:9], labels[2, 3:9], labels[30:35, 20:26] = 15 + 10 * k, 255, 2
                mask = Image.fromarray(labels)
                mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [7, 50, 90] * 253)
                mask.save(base / folder / f"{name}.png")
    return tmp_path


def annotation(name: str, objects: list[dict[str, Any]]) -> str:
    parts = []
    for one in objects:
        x0, y0, x1, y1 = one["box"]
        parts.append(
            f"<object><name>{one['name']}</name><pose>Left</pose>"
            f"<truncated>{one.get('truncated', 0)}</truncated>"
            f"<difficult>{one.get('difficult', 0)}</difficult>"
            f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            "</bndbox><part><name>head</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>7</xmax>"
            "<ymax>8</ymax></bndbox></part></object>"
        )
    return (
        f"<annotation><folder>VOC</folder><filename>{name}.jpg</filename><size><width>{SIZE[0]}"
        f"</width><height>{SIZE[1]}</height><depth>3</depth></size>{''.join(parts)}</annotation>"
    )


def lost_boxes(target: dict[str, Any], no_hard: bool) -> list[tuple[int, ...]]:
    """Apply LOST's rules to an annotation that torchvision has read."""
    found = []
    for one in target["annotation"]["object"]:
        if no_hard and (one["truncated"] == "1" or one["difficult"] == "1"):
            continue
        xmin, ymin, xmax, ymax = (int(one["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax"))
        found.append((xmin - 1, ymin - 1, xmax, ymax))
    return found


def by_name(dataset: ImageDataset) -> dict[str, Any]:
    return {record.key: record.boxes for _, record in dataset.records()}


@pytest.mark.parametrize("year", ["2007", "2012"])
@pytest.mark.parametrize("hard", [True, False])
def test_boxes_of_trainval_equal_losts(year: str, hard: bool, devkit: Path) -> None:
    theirs = VOCDetection(devkit, year=year, image_set="trainval")
    expected = {}
    for _, target in theirs:
        boxes = tuple(lost_boxes(target, not hard))
        if boxes:
            expected[target["annotation"]["filename"]] = boxes
    dataset = load_dataset(f"voc/{year}{'' if hard else '-nohard'}:{devkit}")
    assert by_name(dataset) == expected
    assert len(expected) == (4 if hard else 2)
    assert [len(dataset[split]) for split in ("train", "val")] == ([2, 2] if hard else [1, 1])


@pytest.mark.parametrize(("word", "column"), [("seg", 15), ("instances", 25)])
def test_masks_of_val_equal_torchvisions(word: str, column: int, devkit: Path) -> None:
    dataset = load_dataset(f"voc/2012-{word}:{devkit}")
    ((_, record),) = dataset.records()
    truth = read_record_truth(record, SIZE[::-1])
    assert truth is not None
    assert truth.labels is not None
    assert truth.boxes is None
    assert set(np.unique(truth.labels)) == {VOID, 0, 2, column}
    if word == "seg":
        ((_, mask),) = VOCSegmentation(devkit, year="2012", image_set="val")
        np.testing.assert_array_equal(np.where(truth.labels == VOID, 255, truth.labels), mask)


def test_splits_and_roots(devkit: Path) -> None:
    assert set(by_name(load_dataset(f"voc/2007-test:{devkit}"))) == {"000005.jpg"}
    assert set(by_name(load_dataset(f"voc/2012-train:{devkit}"))) == {"000001.jpg", "000002.jpg"}
    whole = by_name(load_dataset(f"voc/2012-seg-trainval:{devkit}"))
    assert set(whole) == {"000001.jpg", "000003.jpg"}
    for place in (devkit / "VOCdevkit", devkit / "VOCdevkit" / "VOC2012"):
        assert len(by_name(load_dataset(f"voc/2012:{place}"))) == 4
    with pytest.raises(GtaError, match=r"VOC2007 is missing: it is in VOCtrainval_06-Nov-2007.tar"):
        load_dataset(f"voc/2007:{devkit / 'VOCdevkit' / 'VOC2012'}")


@pytest.mark.parametrize(
    ("gone", "spec", "archive"),
    [
        ("ImageSets/Main/val.txt", "2012", "VOCtrainval_11-May-2012.tar (1,999,639,040 bytes, MD5 "
         "6cd6e144f989b92b3379bac3b3de84fd)"),
        ("Annotations/000001.xml", "2007", "VOCtrainval_06-Nov-2007.tar (460,032,000 bytes, MD5 "
         "c52e279531787c972589f7e41ab4ae64)"),
        ("ImageSets/Main/test.txt", "2007-test", "VOCtest_06-Nov-2007.tar (451,020,800 bytes, MD5 "
         "b6e924de25625d8de591ea690078ad9f)"),
        ("SegmentationClass/000003.png", "2012-seg", "VOCtrainval_11-May-2012.tar"),
        ("JPEGImages/000002.jpg", "2012", "VOCtrainval_11-May-2012.tar"),
        ("ImageSets", "2012", "VOCtrainval_11-May-2012.tar"),
    ],
)  # fmt: skip
def test_error_names_the_archive_of_a_missing_file(
    gone: str, spec: str, archive: str, devkit: Path
) -> None:
    path = devkit / "VOCdevkit" / f"VOC{spec[:4]}" / gone
    path.rename(path.with_name("moved"))
    with pytest.raises(GtaError) as caught:
        load_dataset(f"voc/{spec}:{devkit}")
    assert archive in str(caught.value)
    assert "missing" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("voc/2010:{}", "the years are 2007 and 2012"),
        ("voc/2012-segs:{}", "the year can be followed by -seg or -instances"),
        ("voc/2012-seg-instances:{}", "the year can be followed by"),
        ("voc/2012-train-train:{}", "the year can be followed by"),
        ("voc/2012-seg-nohard:{}", "-nohard applies to boxes"),
        ("voc/2012-test:{}", "published for 2007 only"),
        ("voc/2012", "needs a folder: write voc/2012:FOLDER"),
        ("voc/2012:{}/none", "no such folder"),
        ("voc:{}", "the spec must name one dataset"),
    ],
)
def test_invalid_specs(spec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(GtaError, match=message):
        load_dataset(spec.format(tmp_path))


def test_broken_annotation(devkit: Path) -> None:
    (devkit / "VOCdevkit/VOC2012/Annotations/000002.xml").write_text("<annotation><object>")
    with pytest.raises(GtaError, match=r"cannot read annotation .*; compare VOCtrainval_11"):
        load_dataset(f"voc/2012:{devkit}")


def test_published_numbers_of_subsets(devkit: Path) -> None:
    for spec, counts in (
        ("2012", {"train": 5717, "val": 5823}),
        ("2007-trainval", {"train": 2501, "val": 2510}),
        ("2012-seg", {"val": 1449}),
    ):
        published = load_dataset(f"voc/{spec}:{devkit}").published
        assert published is not None
        assert published.counts == counts
    assert load_dataset(f"voc/2012-nohard:{devkit}").published is None


COCO: dict[str, Any] = {
    "images": [
        {"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "width": 60, "height": 50}
        for n in (9, 25, 30, 34)
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "iscrowd": 0, "category_id": 51, "bbox": [1.08, 2.5, 10.9, 20.0]},
        {"id": 2, "image_id": 9, "iscrowd": 1, "category_id": 1, "bbox": [0, 0, 60, 50]},
        {"id": 3, "image_id": 34, "iscrowd": 0, "category_id": 3, "bbox": [0.5, 1.5, 4.0, 5.0]},
        {"id": 4, "image_id": 9, "iscrowd": 0, "category_id": 51, "bbox": [3.5, 4.5, 6.1, 7.2]},
        {"id": 5, "image_id": 30, "iscrowd": 1, "category_id": 1, "bbox": [1, 1, 5, 5]},
    ],
    "categories": [{"id": 51, "name": "bowl"}],
}
LISTED = (30, 9, 25)  # one with a crowd alone, one without annotations; not sorted


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "COCO"
    for folder in ("train2014", "annotations"):
        (root / folder).mkdir(parents=True)
    for image in COCO["images"]:
        Image.new("RGB", (60, 50)).save(root / "train2014" / image["file_name"])
    (root / "annotations" / "instances_train2014.json").write_text(json.dumps(COCO))
    lines = (f"train2014/COCO_train2014_{n:012d}.jpg\n" for n in LISTED)
    (root / "coco_20k_filenames.txt").write_text("".join(lines))
    return root


def test_coco_20k(coco: Path) -> None:
    records = load_dataset(f"coco20k:{coco}")["train"]
    names = [f"train2014/COCO_train2014_{n:012d}.jpg" for n in LISTED]
    assert [record.key for record in records] == names
    assert [record.boxes for record in records] == [(), ((1, 2, 12, 22), (4, 4, 10, 12)), ()]
    # LOST's own folders: the list beside COCO, the photographs in images.
    (coco / "coco_20k_filenames.txt").rename(coco.parent / "coco_20k_filenames.txt")
    (coco / "images").mkdir()
    (coco / "train2014").rename(coco / "images" / "train2014")
    assert load_dataset(f"coco20k:{coco}")["train"][0].path.is_file()  # type: ignore[union-attr]


def test_missing_files_of_coco(coco: Path) -> None:
    photo = coco / "train2014" / f"COCO_train2014_{9:012d}.jpg"
    photo.unlink()
    assert len(read_dataset(f"coco20k:{coco}")["train"]) == 3
    with pytest.raises(GtaError, match=r"000000000009.jpg of COCO 20k missing; .*train2014.zip"):
        load_dataset(f"coco20k:{coco}")
    annotations = coco / "annotations" / "instances_train2014.json"
    for text, message in (
        ("{", "cannot read .*; compare annotations_trainval2014.zip"),
        ('{"images": []}', "no 'annotations'|no image COCO"),
        ('{"images": [], "annotations": []}', "has no image COCO_train2014_000000000009.jpg"),
        ("[]", "cannot read"),
    ):
        annotations.write_text(text)
        with pytest.raises(GtaError, match=message):
            load_dataset(f"coco20k:{coco}")
    annotations.unlink()
    with pytest.raises(GtaError, match=r"annotations_trainval2014.zip \(252,872,794 bytes"):
        load_dataset(f"coco20k:{coco}")
    (coco / "train2014").rename(coco / "train")
    with pytest.raises(GtaError, match=r"train2014.zip \(13,510,573,713 bytes"):
        load_dataset(f"coco20k:{coco}")
    (coco / "coco_20k_filenames.txt").unlink()
    with pytest.raises(GtaError, match=r"coco_20k_filenames\.txt is missing: it is published in"):
        load_dataset(f"coco20k:{coco}")
