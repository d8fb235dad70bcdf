"""Objects of an image's ground truth: pixels and boxes, turned with it, drawn from outlines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gtacli.images.sizes import LARGEST_SIDE, Box, Size, turn_box

_MOST_CROSSINGS = 1 << 25  # of an outline with rows of pixels; no hand draws so many
_AT_ONCE = 1 << 20  # of them, so that memory does not grow with the corners
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class GroundTruth:
    """The ground truth of an image.

    Attributes:
        labels: (h, w) int32: 0 for background, larger numbers for objects or classes, VOID for
            unlabeled pixels. None if there are only boxes.
        boxes: boxes of the objects, if they are annotated.
    """

    labels: NDArray[np.int32] | None = None
    boxes: tuple[Box, ...] | None = None

    def turned(self, stored: Size, orientation: int) -> GroundTruth:
        """Return the ground truth of the stored pixels (h, w) where the upright image has it.

        Args:
            stored: (h, w) of the stored pixels.
            orientation: EXIF's, 1 to 8.
        """
        labels, boxes = self.labels, self.boxes
        if labels is not None and orientation in _TURNS:
            labels = np.asarray(Image.fromarray(labels).transpose(_TURNS[orientation]))
        if boxes is not None:
            boxes = tuple(turn_box(box, stored, orientation) for box in boxes)
        return GroundTruth(labels, boxes)


def stated_size(height: object, width: object) -> Size | None:
    """Return the (h, w) that an annotation in JSON states; None if it states none, or zeros.

    Raises ValueError for what is no size.
    """
    if None in (height, width) or 0 in (height, width):
        return None
    for side in (height, width):
        if type(side) is not int or not 0 < side <= LARGEST_SIDE:
            raise ValueError(f"its image has {width!r} x {height!r} pixels"[:80])
    return cast(Size, (height, width))


def find_turn(stated: Size, size: Size, orientation: Callable[[], int]) -> int:
    """Return the EXIF orientation by which an annotation is turned; 1: as it is.

    Args:
        stated: (h, w) of the annotated pixels.
        size: (h, w) of the image, upright.
        orientation: returns EXIF's orientation of the image, 1 to 8.

    Raises ValueError for pixels that are neither the upright image's nor the stored ones.
    """
    if stated == size:
        return 1
    if stated != size[::-1] or (turn := orientation()) < 5:
        raise ValueError(
            f"it is for {stated[1]} x {stated[0]} pixels, its image has {size[1]} x {size[0]}"
        )
    return turn


def fill_outline(labels: NDArray[np.int32], outline: NDArray[np.float64], number: int) -> None:
    """Give the pixels whose centers lie within an outline a number, in place.

    Args:
        labels: (h, w).
        outline: (corners, 2), x and y in pixels from the upper left corner of the image; where it
            crosses itself, what it encloses twice is outside (even-odd rule).

    Raises ValueError for corners far from any image.
    """
    if not (np.abs(outline) <= LARGEST_SIDE).all():  # also for NaN
        raise ValueError("an outline is outside of any image")
    height, width = labels.shape
    (x0, y0), (x1, y1) = outline.T, np.roll(outline, -1, axis=0).T
    # An edge crosses the centers of the rows [first, end).
    first, end = (
        np.ceil(ends(y0, y1) - 0.5).clip(0, height).astype(np.int64)
        for ends in (np.minimum, np.maximum)
    )
    counts = end - first
    total = int(counts.sum())
    if total > _MOST_CROSSINGS:
        raise ValueError(f"an outline of {len(outline)} corners crosses the image too often")
    if not total:
        return
    top, bottom = int(first[counts > 0].min()), int(end[counts > 0].max())
    left = min(width, max(0, math.floor(x0.min()) - 1))  # rounding moves a crossing by less
    right = min(width, max(0, math.ceil(x0.max()) + 1))
    crossings = np.zeros((bottom - top, right - left + 1), np.int32)
    ends, start = np.cumsum(counts), 0
    while start < len(outline):
        done = int(ends[start] - counts[start])
        stop = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE, "right")))
        some = slice(start, stop)
        edge = np.repeat(np.arange(start, stop), counts[some])
        before = np.repeat(ends[some] - counts[some] - done - first[some], counts[some])
        rows = np.arange(len(edge)) - before
        x = x0[edge] + (rows + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        columns = np.ceil(x - 0.5).clip(left, right).astype(np.int64)
        np.add.at(crossings, (rows - top, columns - left), 1)
        start = stop
    inside = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    labels[top:bottom, left:right][inside] = number
