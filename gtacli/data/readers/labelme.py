"""Objects in LabelMe's annotations: one JSON file an image, as LabelMe and X-AnyLabeling write it.

A shape is a polygon, a rectangle, a circle (its center and a point on it) or a mask; points and
lines enclose nothing and are left out. Shapes of a label and a `group_id` are one object. Format:
github.com/wkentaro/labelme, `label_file.py`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtacli.data.objects import GroundTruth, fill_outline, find_turn, stated_size
from gtacli.images.decode import EncodedImage, ImageError, decode
from gtacli.images.sizes import LARGEST_SIDE, Box, Size, check_box, clip_boxes
from gtacli.runtime.strict_json import read_json, reason_of

_THIN = ("point", "points", "line", "linestrip")
_CORNERS = 256  # of a circle: within a ten-thousandth of its radius
_MOST_SHAPES = 10_000


def read_labelme(path: Path, size: Size, orientation: Callable[[], int] = lambda: 1) -> GroundTruth:
    """Read an annotation: only boxes if all its shapes are rectangles, else the objects' pixels.

    Args:
        path: the annotation.
        size: (h, w) of the annotated image, upright.
        orientation: returns EXIF's orientation of the image, 1 to 8, for an annotation of the
            stored pixels, which is turned.

    Raises ImageError for a file that is missing, no such annotation, of an image of another size,
    or with a shape that cannot be.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise ValueError("it is no annotation of LabelMe: it has no list `shapes`")
        stored = stated_size(content.get("imageHeight"), content.get("imageWidth")) or size
        turn = find_turn(stored, size, orientation)
        truth = _truth(content["shapes"], stored, path)
    except FileNotFoundError as error:
        raise ImageError(f"no such annotation: {path}") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read annotation {path}: {reason_of(error)}") from error
    return truth.turned(stored, turn)


def _truth(shapes: list[Any], size: Size, path: Path) -> GroundTruth:
    if len(shapes) > _MOST_SHAPES:
        raise ValueError(f"it has more than {_MOST_SHAPES:,} shapes")
    kinds = [_kind(shape) for shape in shapes]
    solid = [shape for shape, kind in zip(shapes, kinds, strict=True) if kind not in _THIN]
    if solid and all(_kind(shape) == "rectangle" for shape in solid):
        return GroundTruth(boxes=clip_boxes(map(_box, solid), size))
    labels = np.zeros(size, np.int32)
    numbers: dict[Any, int] = {}
    for place, shape in enumerate(solid):
        group = shape.get("group_id")
        one = place if group is None else (str(shape.get("label")), str(group))
        _draw(shape, labels, numbers.setdefault(one, len(numbers) + 1), path)
    return GroundTruth(labels)


def _kind(shape: Any) -> str:
    kind = shape.get("shape_type", "polygon") if isinstance(shape, dict) else None
    if not isinstance(kind, str):
        raise ValueError("a shape is no object with a `shape_type`")
    return kind


def _draw(shape: dict[str, Any], labels: NDArray[np.int32], number: int, path: Path) -> None:
    points, kind = _points(shape), _kind(shape)
    if kind == "mask":
        _draw_mask(shape, points, labels, number, path)
        return
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif kind == "circle":
        if len(points) != 2:
            raise ValueError("a circle is not a center and a point on it")
        radius = math.dist(*points)
        angles = np.linspace(0, 2 * math.pi, _CORNERS, endpoint=False)
        points = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif len(points) < 3:
        raise ValueError(f"a {kind[:20]!r} has {len(points)} points")
    fill_outline(labels, points, number)


def _points(shape: dict[str, Any]) -> NDArray[np.float64]:
    points = shape.get("points")
    plain = isinstance(points, list) and points and all(map(_is_point, points))
    if not plain:
        raise ValueError("the `points` of a shape are not a list of [x, y]")
    return np.array(points, np.float64)


def _is_point(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2
    return numbers and all(
        isinstance(n, int | float) and not isinstance(n, bool) and abs(n) <= LARGEST_SIDE
        for n in value
    )


def _box(shape: dict[str, Any]) -> Box:
    points = _points(shape)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    box = round(x0), round(y0), round(x1), round(y1)
    check_box(box, (LARGEST_SIDE, LARGEST_SIDE))
    return box


def _draw_mask(
    shape: dict[str, Any],
    points: NDArray[np.float64],
    labels: NDArray[np.int32],
    number: int,
    path: Path,
) -> None:
    """Draw a PNG whose upper left pixel is at the first of `points`."""
    text = shape.get("mask")
    if not isinstance(text, str):
        raise ValueError("a shape of the kind `mask` has none")
    data = base64.b64decode(text, validate=True)
    mask = np.asarray(decode(EncodedImage(f"a mask in {path}", data)).convert("L")) > 0
    x, y = (int(n) for n in points.min(axis=0))
    height, width = labels.shape
    if x < 0 or y < 0 or y + mask.shape[0] > height or x + mask.shape[1] > width:
        raise ValueError("a mask is larger than its image")
    labels[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = number
