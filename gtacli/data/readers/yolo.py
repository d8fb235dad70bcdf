"""Objects in Ultralytics YOLO's labels: a text file an image, a box or a polygon per line.

A line is a class and fractions of width and height: center and size of a box, or x and y of three
corners or more. One number more is the confidence of a prediction. Polygons are filled as
Ultralytics fills them with OpenCV: corners are whole pixels, and the border belongs to the object.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gtacli.data.objects import GroundTruth, fill_outline
from gtacli.images.decode import ImageError
from gtacli.images.sizes import Box, Size, clip_boxes
from gtacli.runtime.regular import open_regular_text

_BOX = 4
_LEAST = 6  # numbers of a polygon
_OUTSIDE = 0.01  # rounding, as Ultralytics allows


def read_yolo(path: Path, size: Size) -> GroundTruth:
    """Read the labels of an image of (h, w): only boxes if all its lines are boxes, else pixels.

    Raises ImageError for a file that is missing or has a line that is neither.
    """
    try:
        with open_regular_text(path) as file:
            rows = [_numbers(line, number) for number, line in enumerate(file, 1) if line.strip()]
        if rows and all(len(row) == _BOX for row in rows):
            return GroundTruth(boxes=clip_boxes((_box(row, size) for row in rows), size))
        labels = np.zeros(size, np.int32)
        for number, row in enumerate(rows, 1):
            labels[_inside(row, size)] = number
    except FileNotFoundError as error:
        raise ImageError(f"no such annotation: {path}") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read annotation {path}: {error}") from error
    return GroundTruth(labels)


def _numbers(line: str, number: int) -> list[float]:
    """Return the numbers of a box or a polygon, without class and confidence."""
    try:
        values = [float(word) for word in line.split()[1:]]
    except ValueError:
        values = []
    values = values[: len(values) // 2 * 2]
    if len(values) != _BOX and len(values) < _LEAST:
        raise ValueError(f"line {number} is no class with a box or a polygon")
    if not all(-_OUTSIDE <= value <= 1 + _OUTSIDE for value in values):  # also for NaN
        raise ValueError(f"line {number} has numbers that are no fractions from 0 to 1")
    return values


def _box(row: list[float], size: Size) -> Box:
    (height, width), (x, y, w, h) = size, row
    left, right = (round((x + side * w / 2) * width) for side in (-1, 1))
    top, bottom = (round((y + side * h / 2) * height) for side in (-1, 1))
    return left, top, right, bottom


def _inside(row: list[float], size: Size) -> NDArray[np.bool_]:
    height, width = size
    if len(row) == _BOX:  # a box among polygons
        mask = np.zeros(size, bool)
        for x0, y0, x1, y1 in clip_boxes([_box(row, size)], size):
            mask[y0:y1, x0:x1] = True
        return mask
    corners = np.array(row).reshape(-1, 2) * (width, height)
    corners = np.clip(np.floor(corners), 0, (width - 1, height - 1))
    labels = np.zeros(size, np.int32)
    fill_outline(labels, corners + 0.5, 1)
    border = Image.new("1", (width, height))
    path = [(math.floor(x), math.floor(y)) for x, y in [*corners, corners[0]]]
    ImageDraw.Draw(border).line(path, fill=1)
    return (labels > 0) | np.asarray(border)
