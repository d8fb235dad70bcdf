"""Images of an export "CVAT for images 1.1" (docs.cvat.ai, XML annotation format).

Boxes, polygons, ellipses and masks are objects, those of a group and a label one object; tags are
classes of the image. Points, lines and cuboids enclose nothing and are left out.

The XML is read by expat as a stream. A document type, which alone can declare entities, is refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from gta_coco.annotations import AnnotatedImage, AnnotatedObject, Outline, Shape
from gtacli.data.base import SPLIT_NAMES
from gtacli.data.readers.annotations import read_pixels
from gtacli.images.sizes import LARGEST_SIDE, Box, Size
from gtacli.runtime.regular import open_regular

_DEEPEST = 32
_MOST_BYTES = 1 << 30
_CORNERS = 256  # of an ellipse
_SHAPES = ("box", "polygon", "ellipse", "mask")


@dataclass(frozen=True, slots=True)
class RowRuns:
    """A mask in a box: lengths of runs off, on, off, … along the rows."""

    box: Box
    counts: tuple[int, ...]

    def draw(self, labels: NDArray[np.int32], number: int) -> None:
        x0, y0, x1, y1 = self.box
        if x1 > labels.shape[1] or y1 > labels.shape[0]:
            raise ValueError("a mask is larger than its image")
        on = np.arange(len(self.counts)) % 2 == 1
        mask = np.repeat(on, self.counts).reshape(y1 - y0, x1 - x0)
        labels[y0:y1, x0:x1][mask] = number


@dataclass
class _Shapes:
    """The shapes of one object, as they are read."""

    name: str
    order: float
    shapes: list[Shape] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    plain: bool = True


def parse_cvat(path: Path) -> tuple[AnnotatedImage, ...]:
    """Return the images of a file. Raises OSError, and ValueError for what is no such export."""
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, more than {_MOST_BYTES:,}; split the task")
        try:
            parser.ParseFile(file)
        except expat.ExpatError as error:
            raise ValueError(f"it is not XML: {error}") from None
        except KeyError as error:
            line = parser.CurrentLineNumber
            raise ValueError(f"line {line}: its element has no {error}") from None
        except ValueError as error:
            raise ValueError(f"line {parser.CurrentLineNumber}: {error}") from None
    return tuple(reader.images)


def _refuse(*_: Any) -> None:
    raise ValueError("it declares a document type, which no export has")


class _Reader:
    """Collects the images of a file, element by element."""

    def __init__(self) -> None:
        self.images: list[AnnotatedImage] = []
        self._depth = 0
        self._image: AnnotatedImage | None = None
        self._objects: dict[Any, _Shapes] = {}
        self._tags: dict[str, None] = {}

    def start(self, kind: str, given: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError(f"its elements are nested more than {_DEEPEST} deep")
        if self._depth == 1 and kind != "annotations":
            raise ValueError("it is no export of CVAT: its first element is not <annotations>")
        if self._depth == 2 and kind == "track":
            raise ValueError("it is an export for videos: export it as CVAT for images 1.1")
        if self._depth == 2 and kind == "image":
            size = _whole(given, "height", 1), _whole(given, "width", 1)
            split = SPLIT_NAMES.get(given.get("subset", "").lower())
            self._image = AnnotatedImage((given["name"],), size, (), split=split)
            self._objects, self._tags = {}, {}
        elif self._depth == 3 and self._image is not None:
            self._add(kind, given)

    def end(self, kind: str) -> None:
        self._depth -= 1
        if self._depth == 1 and self._image is not None:
            ordered = sorted(self._objects.values(), key=lambda one: one.order)
            objects = tuple(_object(one) for one in ordered)
            self.images.append(replace(self._image, objects=objects, tags=tuple(self._tags)))
            self._image = None

    def _add(self, kind: str, given: Mapping[str, str]) -> None:
        if kind == "tag":
            self._tags[_label(given)] = None
        if kind not in _SHAPES:
            return
        name, group = _label(given), given.get("group_id", "0")
        key = len(self._objects) if group in ("", "0") else (name, group)
        order = _number(given, "z_order") if "z_order" in given else 0.0
        one = self._objects.setdefault(key, _Shapes(name, order))
        shape, box = _shape(kind, given)
        one.shapes.append(shape)
        one.boxes.append(box)
        one.plain &= kind == "box" and not float(given.get("rotation") or 0)


def _object(one: _Shapes) -> AnnotatedObject:
    boxes = np.array(one.boxes)
    x0, y0 = boxes[:, :2].min(axis=0).tolist()
    x1, y1 = boxes[:, 2:].max(axis=0).tolist()
    plain = one.plain and len(one.shapes) == 1
    return AnnotatedObject(one.name, (x0, y0, x1, y1), tuple(one.shapes), plain=plain)


def _shape(kind: str, given: Mapping[str, str]) -> tuple[Shape, Box]:
    if kind == "mask":
        size: Size = _whole(given, "height", 1), _whole(given, "width", 1)
        left, top = _whole(given, "left"), _whole(given, "top")
        counts = tuple(_count(text) for text in given["rle"].split(","))
        if sum(counts) != size[0] * size[1]:
            raise ValueError("the run lengths of a mask do not fill its box")
        box = left, top, left + size[1], top + size[0]
        return RowRuns(box, counts), box
    if kind == "polygon":
        corners = tuple(_point(text) for text in given["points"].split(";"))
        if len(corners) < 3:
            raise ValueError(f"a polygon has {len(corners)} corners")
    elif kind == "box":
        x0, y0, x1, y1 = (_number(given, side) for side in ("xtl", "ytl", "xbr", "ybr"))
        if x0 > x1 or y0 > y1:
            raise ValueError("the sides of a box are exchanged")
        corners = _turned(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), given)
    else:
        x, y, rx, ry = (_number(given, key) for key in ("cx", "cy", "rx", "ry"))
        angles = (2 * math.pi * number / _CORNERS for number in range(_CORNERS))
        around = tuple((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)
        corners = _turned(around, given)
    xs, ys = zip(*corners, strict=True)
    return Outline(corners), (round(min(xs)), round(min(ys)), round(max(xs)), round(max(ys)))


def _turned(
    corners: tuple[tuple[float, float], ...], given: Mapping[str, str]
) -> tuple[tuple[float, float], ...]:
    """Turn a shape clockwise around its center, by `rotation` in degrees."""
    turn = math.radians(_number(given, "rotation") if given.get("rotation") else 0)
    if not turn:
        return corners
    sine, cosine = math.sin(turn), math.cos(turn)
    xs, ys = zip(*corners, strict=True)
    x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    return tuple(
        (x + (a - x) * cosine - (b - y) * sine, y + (a - x) * sine + (b - y) * cosine)
        for a, b in corners
    )


def _label(given: Mapping[str, str]) -> str:
    name = given["label"]
    if not name.strip():
        raise ValueError("a label is empty")
    return name


def _point(text: str) -> tuple[float, float]:
    x, comma, y = text.partition(",")
    if not comma:
        raise ValueError(f"{text[:20]!r} is no corner x,y")
    return read_pixels(x), read_pixels(y)


def _number(given: Mapping[str, str], key: str) -> float:
    return read_pixels(given[key])


def _whole(given: Mapping[str, str], key: str, least: int = 0) -> int:
    value = _count(given[key])
    if not least <= value <= LARGEST_SIDE:
        raise ValueError(f"its {key} is {value}")
    return value


def _count(text: str) -> int:
    plain = text.strip()
    if not (plain.isascii() and plain.isdigit() and len(plain) < 16):
        raise ValueError(f"{plain[:20]!r} is no whole number")
    return int(plain)
