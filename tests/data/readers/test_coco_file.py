"""Tests of ground truth in one file of COCO's format."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gtacli.data.objects import GroundTruth
from gtacli.data.run_lengths import decode_runs
from gtacli.data.truth import check_truth, read_truth
from gtacli.errors import UsageError
from gtacli.images.decode import ImageError
from gtacli.measures.segmentation import VOID

SIZE = (6, 9)
OBJECT = np.zeros(SIZE, bool)
OBJECT[2:5, 3:8] = OBJECT[0, 0] = True
RUNS = [0, 1, 19, 3, 3, 3, 3, 3, 3, 3, 3, 3, 7]
TEXT = "01c02@00000004"  # of pycocotools 2.0
OUTLINE = [3, 2, 8, 2, 8, 5, 3, 5]


def write(tmp_path: Path, *annotations: dict[str, Any], name: str = "a.jpg", **image: Any) -> Path:
    path = tmp_path / "instances.json"
    content = {
        "images": [{"id": 5, "file_name": name, "height": 6, "width": 9, **image}],
        "annotations": [{"id": n, "image_id": 5, **one} for n, one in enumerate(annotations)],
        "categories": [{"id": 1, "name": "bird"}],
    }
    path.write_text(json.dumps(content))
    return path


def read(path: Path, image: str = "a.jpg", **more: Any) -> GroundTruth:
    return read_truth(path, PurePath(image), SIZE, **more)


@pytest.mark.parametrize("counts", [RUNS, TEXT])
def test_run_lengths(counts: Any, tmp_path: Path) -> None:
    assert (decode_runs(counts, SIZE) == OBJECT).all()
    path = write(tmp_path, {"segmentation": {"size": [6, 9], "counts": counts}})
    found = read(path)
    assert found.labels is not None
    assert (found.labels == OBJECT).all()


def test_run_lengths_as_pycocotools_writes_them() -> None:
    # Of a 40 x 300 mask with single pixels; the text has large and negative differences.
    text = "Se01W50dM0i>0mM0TO0f20h90g40bH0[;0YTO0U20X20P`00QUO0b30nL0P`00f10iM0e20RF0[N"
    pixels = [  # numbered down the columns
        675,
        843,
        935,
        1500,
        1998,
        2468,
        3024,
        3892,
        4911,
        5692,
        6836,
        7093,
        7419,
        7817,
        8727,
        8774,
        8935,
        8998,
        9573,
        10202,
        10760,
        11403,
        11728,
    ]
    mask = decode_runs(text, (40, 300))
    assert np.flatnonzero(mask.T.reshape(-1)).tolist() == pixels


def test_outlines_crowds_and_boxes(tmp_path: Path) -> None:
    crowd = {
        "segmentation": {"size": [6, 9], "counts": [48, 6]},
        "iscrowd": 1,
        "bbox": [8, 0, 1, 6],
    }
    one = {"segmentation": [OUTLINE, [0, 0, 1, 0, 1, 1, 0, 1]], "bbox": [0, 0, 8, 5]}
    found = read(write(tmp_path, crowd, {**one, "iscrowd": 0}))
    assert found.boxes == ((0, 0, 8, 5),)
    assert found.labels is not None
    assert ((found.labels == 1) == OBJECT).all()
    assert (found.labels[:, 8] == VOID).all()


def test_boxes_alone(tmp_path: Path) -> None:
    found = read(write(tmp_path, {"bbox": [3.2, 2, 5, 3]}, {"bbox": [-2, 0, 4, 50]}))
    assert found.labels is None
    assert found.boxes == ((3, 2, 8, 5), (0, 0, 2, 6))


def test_images_without_objects(tmp_path: Path) -> None:
    found = read(write(tmp_path))
    assert (found.labels, found.boxes) == (None, ())


@pytest.mark.parametrize("name", ["train/a.jpg", "./a.jpg", "x\\a.jpg"])
def test_an_image_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    assert read(write(tmp_path, {"bbox": [3, 2, 5, 3]}, name=name)).boxes == ((3, 2, 8, 5),)


def test_an_unknown_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no ground truth for b\.jpg in .*instances\.json"):
        read(write(tmp_path), "b.jpg")


def test_annotation_of_stored_pixels_turns(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((9, 6, 3), np.uint8)).save(photo, exif=exif)
    path = write(tmp_path, {"segmentation": [[0, 0, 2, 0, 2, 1, 0, 1]]}, height=9, width=6)
    found = read(path, source=photo)
    assert found.labels is not None
    assert found.labels[0:2, 8].all()
    assert found.labels.sum() == 2


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, {"bbox": [3, 2, 5, 3]})
    assert read(path).boxes == ((3, 2, 8, 5),)
    write(tmp_path, {"bbox": [0, 0, 2, 2]}, {"bbox": [1, 1, 2, 2]})
    assert read(path).boxes == ((0, 0, 2, 2), (1, 1, 3, 3))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"segmentation": {"size": [6, 9], "counts": [53]}}, "do not fill"),
        ({"segmentation": {"size": [6, 9], "counts": [-1, 55]}}, "do not fill"),
        ({"segmentation": {"size": [9, 6], "counts": [54]}}, "another size"),
        ({"segmentation": {"size": [6, 9], "counts": "0é"}}, "damaged"),
        ({"segmentation": {"size": [6, 9], "counts": "P"}}, "damaged"),
        ({"segmentation": {"counts": [54]}}, "no annotation of COCO"),
        ({"segmentation": [[1, 2, 3, 4]]}, "three corners"),
        ({"segmentation": [["x"] * 6]}, "three corners"),
        ({"segmentation": 3}, "no annotation of COCO"),
        ({"bbox": [1, 2]}, "not \\[x, y"),
    ],
)
def test_broken_annotations(annotation: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=message) as found:
        read(write(tmp_path, annotation))
    assert "\n" not in str(found.value)
    assert "a.jpg" in str(found.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "needs `images` and `annotations`"),
        ("x", "not JSON"),
        ('{"images": [{}], "annotations": []}', "no file of COCO's format"),
        ('{"images": 3, "annotations": []}', "no file of COCO's format"),
        (
            '{"annotations": [], "images": [{"file_name": "a", "height": "6", "width": 9}]}',
            "pixels",
        ),
    ],
)
def test_other_files_are_named_at_once(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        check_truth(path, "ground_truth")


def test_neither_folder_nor_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder or file"):
        check_truth(tmp_path / "x", "masks")
