"""Tests of ground truth in an export of Label Studio."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest

from gtacli.data.brush_lengths import encode_brush
from gtacli.data.objects import GroundTruth
from gtacli.data.truth import check_truth, read_truth
from gtacli.errors import UsageError
from gtacli.images.decode import ImageError

SIZE = (40, 50)
DISK = np.add.outer((np.arange(40) - 19.5) ** 2, (np.arange(50) - 24.5) ** 2) < 100


def region(kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    sizes = {"original_width": 50, "original_height": 40, "image_rotation": 0}
    return {"type": kind, "from_name": "a", "to_name": "b", "value": value, **sizes, **more}


BRUSH = region("brushlabels", {"format": "rle", "rle": encode_brush(DISK), "brushlabels": ["x"]})
BOX = {"x": 10, "y": 25, "width": 20, "height": 50, "rotation": 0}
RECTANGLE = region("rectanglelabels", BOX)
POLYGON = region("polygonlabels", {"points": [[10, 25], [30, 25], [30, 75], [10, 75]]})
ELLIPSE = region("ellipselabels", {"x": 50, "y": 50, "radiusX": 20, "radiusY": 25})
CHOICE = {"type": "choices", "value": {"choices": ["blurred"]}, "from_name": "c", "to_name": "b"}


def write(tmp_path: Path, *regions: Any, image: str = "/data/upload/1/0a1b2c3d-a.jpg") -> Path:
    path = tmp_path / "project.json"
    tasks = [{"id": 1, "data": {"image": image}, "annotations": [{"result": [*regions]}]}]
    path.write_text(json.dumps(tasks))
    return path


def read(path: Path, image: str = "a.jpg") -> GroundTruth:
    return read_truth(path, PurePath(image), SIZE)


def test_brush_strokes_and_what_is_no_object(tmp_path: Path) -> None:
    labels = read(write(tmp_path, CHOICE, BRUSH)).labels
    assert labels is not None
    assert (labels == DISK).all()


def test_rectangles_alone_are_boxes(tmp_path: Path) -> None:
    truth = read(write(tmp_path, RECTANGLE))
    assert truth.labels is None
    assert truth.boxes == ((5, 10, 15, 30),)


@pytest.mark.parametrize("other", [POLYGON, region("rectanglelabels", {**BOX, "rotation": 360})])
def test_shapes_in_per_cent(other: Any, tmp_path: Path) -> None:
    labels = read(write(tmp_path, other)).labels
    assert labels is not None
    expected = np.zeros(SIZE, bool)
    expected[10:30, 5:15] = True
    assert (labels == expected).all()


def test_rectangles_turn_clockwise_around_their_first_corner(tmp_path: Path) -> None:
    value = {"x": 50, "y": 50, "width": 20, "height": 10, "rotation": 90}
    labels = read(write(tmp_path, region("rectanglelabels", value))).labels
    assert labels is not None
    expected = np.zeros(SIZE, bool)
    expected[20:30, 21:25] = True
    assert (labels == expected).all()


def test_ellipses(tmp_path: Path) -> None:
    labels = read(write(tmp_path, ELLIPSE)).labels
    assert labels is not None
    assert labels.sum() == pytest.approx(np.pi * 100, rel=0.02)


@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d=some/birds%20and/a.jpg",
        "s3://bucket/birds%20and/a.jpg",
        "https://host/birds%20and/a.jpg?token=1",
        "/data/upload/3/0123abcd-a.jpg",
        "a.jpg",
    ],
)
def test_addresses_of_images(address: str, tmp_path: Path) -> None:
    assert read(write(tmp_path, BRUSH, image=address), "birds and/a.jpg").labels is not None


def test_equal_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    tasks = [
        {"data": {"image": f"/data/local-files/?d=x/{part}/a.jpg"}, "predictions": [{"result": r}]}
        for part, r in (("one", [BRUSH]), ("two", [RECTANGLE]))
    ]
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(tasks))
    assert read(path, "one/a.jpg").labels is not None
    assert read(path, "two/a.jpg").labels is None
    with pytest.raises(ImageError, match="more than one task"):
        read(path, "a.jpg")


def test_canceled_annotations_do_not_count(tmp_path: Path) -> None:
    canceled, done = {"was_cancelled": True, "result": []}, {"result": [RECTANGLE]}
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([{"data": {"image": "a.jpg"}, "annotations": [canceled, done]}]))
    assert read(path).boxes is not None


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (region("brushlabels", {"rle": [1, 2]}), "end too early"),
        (region("brushlabels", {}), "no annotation of Label Studio"),
        (region("polygonlabels", {"points": [[1, 2]]}), "three corners"),
        (region("polygonlabels", {"points": [[1, 2], [1, 1e300], [2, 3]]}), "outside of any"),
        (region("rectanglelabels", {**BOX, "x": 1e999}), "too large"),
        (region("ellipselabels", {"x": "1", "y": 2}), "no annotation|could not convert"),
        ({**BRUSH, "original_width": 49}, "49 x 40"),
        ({**BRUSH, "image_rotation": 90}, "rotated"),
    ],
)
def test_wrong_regions_are_one_line(wrong: Any, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path, wrong)
    path.write_text(path.read_text().replace("Infinity", "1e999"))
    with pytest.raises(ImageError, match=reason) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1], [{"data": 3}], [{"id": 3}]])
def test_other_lists_are_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="Label Studio's tasks"):
        check_truth(path, "ground_truth")


def test_an_image_without_a_task(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no ground truth for b\.jpg"):
        read(write(tmp_path, BRUSH), "b.jpg")
