"""Boxes of objects in VOC's annotation files (Everingham et al., 2010), as in LOST.

`xmin` and `ymin` count from 1, and `xmax` and `ymax` are inclusive, so a box is [xmin - 1, xmax)
(LOST, Siméoni et al., arXiv 2109.14279, `extract_gt_VOC` in its datasets.py, which TokenCut uses
too).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from gtacli.data.objects import find_turn
from gtacli.images.decode import ImageError
from gtacli.images.sizes import LARGEST_SIDE, Box, Size, check_box, turn_box
from gtacli.runtime.regular import open_regular


def read_boxes(
    path: Path,
    size: Size | None = None,
    hard: bool = True,
    orientation: Callable[[], int] = lambda: 1,
) -> tuple[Box, ...]:
    """Read the boxes of an annotation's objects, not of their parts, clipped to the image.

    Tools that do not turn photographs (labelImg before 1.8) annotate the stored pixels: where the
    annotation's size tells so, the boxes are turned as the photograph is.

    Args:
        path: the annotation.
        size: expected (h, w) of the annotated image, upright.
        hard: include objects that are marked truncated or difficult.
        orientation: returns EXIF's orientation of the image, 1 to 8.

    Raises ImageError for a file that is missing, no VOC annotation, of an image of another size, or
    with a box without area or outside of its image.
    """
    try:
        with open_regular(path) as file:
            root = ElementTree.parse(file).getroot()
        annotated = _annotated_size(root)
        objects = [o for o in root.findall("object") if hard or not _is_hard(o)]
        boxes = tuple(_box(o, annotated or size) for o in objects)
    except FileNotFoundError as error:
        raise ImageError(f"no such annotation: {path}") from error
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise ImageError(f"cannot read annotation {path}: {error}") from error
    if root.tag != "annotation":
        raise ImageError(f"{path} is not a VOC annotation")
    if size is None or annotated is None:
        return boxes
    try:
        turn = find_turn(annotated, size, orientation)
    except ValueError as error:
        raise ImageError(f"cannot read annotation {path}: {error}") from error
    return tuple(turn_box(box, annotated, turn) for box in boxes)


def _is_hard(element: ElementTree.Element) -> bool:
    return "1" in (element.findtext("truncated"), element.findtext("difficult"))


def _annotated_size(root: ElementTree.Element) -> Size | None:
    """Return the (h, w) that an annotation states; None if it states none, or zeros."""
    h, w = (_pixels(root.findtext(f"size/{side}") or "0") for side in ("height", "width"))
    if h < 0 or w < 0:
        raise ValueError(f"its image has {w} x {h} pixels")
    return (h, w) if h and w else None


def _box(element: ElementTree.Element, size: Size | None) -> Box:
    sides = ("xmin", "ymin", "xmax", "ymax")
    texts = [element.findtext(f"bndbox/{side}") for side in sides]
    if None in texts:
        raise ValueError("an object has an incomplete bndbox")
    x0, y0, x1, y1 = (_pixels(text) for text in texts if text is not None)
    check_box((x0 - 1, y0 - 1, x1, y1), size)
    h, w = size or (y1, x1)
    return max(0, x0 - 1), max(0, y0 - 1), min(x1, w), min(y1, h)


def _pixels(text: str) -> int:
    # A few values of VOC 2012 are not integers.
    return int(read_pixels(text))


def read_pixels(text: str) -> float:
    """Return a coordinate in pixels. Raises ValueError for a text that is none of any image."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST_SIDE:  # also for NaN
        raise ValueError(f"{text[:20]!r} is no number of pixels")
    return value
