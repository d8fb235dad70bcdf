"""Tests of LabelMe's annotations."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gtacli.data.truth import read_truth
from gtacli.images.decode import ImageError

SIZE = (12, 17)
SQUARE = [[3, 2], [8, 2], [8, 5], [3, 5]]
OTHER = [[10, 6], [14, 6], [14, 9], [10, 9]]


def shape(kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": "bird", "points": points, "group_id": None, "shape_type": kind, **more}


def write(folder: Path, *shapes: Any, height: Any = 12, width: Any = 17) -> None:
    content = {
        "version": "5.2.1",
        "shapes": list(shapes),
        "imagePath": "a.jpg",
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    (folder / "a.json").write_text(json.dumps(content))


def labels(folder: Path, **more: Any) -> np.ndarray:
    found = read_truth(folder, PurePath("a.jpg"), SIZE, **more).labels
    assert found is not None
    return found


def test_polygons_are_objects(tmp_path: Path) -> None:
    write(tmp_path, shape("polygon", SQUARE), shape("polygon", OTHER))
    found = labels(tmp_path)
    assert (found[2:5, 3:8] == 1).all()
    assert (found[6:9, 10:14] == 2).all()
    assert (found > 0).sum() == 15 + 12


def test_a_group_is_one_object(tmp_path: Path) -> None:
    write(
        tmp_path,
        shape("polygon", SQUARE, group_id=7),
        shape("polygon", OTHER, group_id=7),
    )
    assert set(np.unique(labels(tmp_path))) == {0, 1}


def test_rectangles_alone_are_boxes(tmp_path: Path) -> None:
    write(tmp_path, shape("rectangle", [[8, 5], [3, 2]]), shape("rectangle", [[-4, 1], [2, 30]]))
    found = read_truth(tmp_path, PurePath("a.jpg"), SIZE)
    assert found.labels is None
    assert found.boxes == ((3, 2, 8, 5), (0, 1, 2, 12))


def test_circle_mask_and_lines(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.fromarray(np.array([[255, 0], [255, 255]], np.uint8)).save(png, "png")
    write(
        tmp_path,
        shape("circle", [[6, 6], [9, 6]]),
        shape("mask", [[14, 8], [16, 10]], mask=base64.b64encode(png.getvalue()).decode()),
        shape("line", [[0, 0], [5, 5]]),
        shape("point", [[1, 1]]),
    )
    found = labels(tmp_path)
    y, x = np.mgrid[:12, :17] + 0.5
    assert ((found == 1) == (np.hypot(x - 6, y - 6) < 3)).all()
    assert (found[8:10, 14:16] == [[2, 0], [2, 2]]).all()
    assert not found[0, 0]


def test_no_shape_is_no_object(tmp_path: Path) -> None:
    write(tmp_path, height=None, width=None)
    assert not labels(tmp_path).any()


def test_annotation_beside_its_image(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(photo)
    write(tmp_path, shape("polygon", SQUARE))
    assert labels(tmp_path, source=photo).sum() == 15


def test_annotation_of_stored_pixels_turns(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((17, 12, 3), np.uint8)).save(photo, exif=exif)
    write(tmp_path, shape("polygon", [[0, 0], [2, 0], [2, 1], [0, 1]]), height=17, width=12)
    found = labels(tmp_path, source=photo)
    assert found[0:2, 16].all()
    assert found.sum() == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no list `shapes`"),
        ("{", "not JSON"),
        ('{"shapes": [3]}', "no object with a `shape_type`"),
        ('{"shapes": [{"points": [[1, 2], [3, 4]]}]}', "has 2 points"),
        ('{"shapes": [{"points": [[1, 2, 3]]}]}', "not a list of"),
        ('{"shapes": [{"points": [[1, 1e30]]}]}', "not a list of"),
        ('{"shapes": [{"shape_type": "mask", "points": [[1, 2]], "mask": "?"}]}', "a.json"),
        ('{"shapes": [{"shape_type": "rectangle", "points": [[2, 2]]}]}', "no area"),
        ('{"shapes": [], "imageHeight": 9, "imageWidth": 9}', "9 x 9 pixels, its image has 17"),
        ('{"shapes": [], "imageHeight": "x", "imageWidth": 9}', "pixels"),
    ],
)
def test_broken_annotations(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ImageError, match=message) as found:
        read_truth(tmp_path, PurePath("a.jpg"), SIZE)
    assert "\n" not in str(found.value)
