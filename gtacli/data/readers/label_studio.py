"""Objects in an export of Label Studio: one JSON list of the tasks of all images.

Of a task the first annotation that was not canceled counts, or without any the first prediction.
Brush strokes, polygons, rectangles and ellipses are objects; all else is left out. Format:
labelstud.io/guide/export and labelstud.io/tags.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from gtacli.data.brush_lengths import decode_brush
from gtacli.data.objects import GroundTruth, fill_outline, find_turn, stated_size
from gtacli.images.decode import ImageError
from gtacli.images.sizes import Box, Size, clip_boxes

REGIONS = ("brush", "polygon", "rectangle", "ellipse")
_UPLOADED = re.compile(r"[0-9a-f]{8}-")
_CORNERS = 256  # of an ellipse


@dataclass(frozen=True)
class LabelStudioFile:
    """The tasks of an export.

    Attributes:
        path: the file.
        tasks: with the path of the image of each, by the last part of that path.
    """

    path: Path
    tasks: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]]

    def read(
        self, image: PurePath, size: Size, orientation: Callable[[], int] = lambda: 1
    ) -> GroundTruth:
        """Return the ground truth of an image; only boxes if all its objects are rectangles.

        Args:
            image: relative path of the image; its name is enough if only one image has it.
            size: (h, w) of the image, upright.
            orientation: returns EXIF's orientation of the image, 1 to 8, for annotations of the
                stored pixels, which are turned.

        Raises ImageError.
        """
        alike = self.tasks.get(image.name, ())
        if len(alike) > 1:
            end = f"/{image.as_posix()}"
            alike = [one for one in alike if f"/{one[0]}".endswith(end)]
        if len(alike) != 1:
            found = "no ground truth" if not alike else "more than one task"
            raise ImageError(f"{found} for {image} in {self.path}")
        try:
            regions = _regions(alike[0][1])
            stated = [stated_size(r["original_height"], r["original_width"]) for r in regions]
            stored = next((one for one in stated if one is not None), size)
            if any(one not in (None, stored) for one in stated):
                raise ValueError("its regions are of images of several sizes")
            turn = find_turn(stored, size, orientation)
            truth = _truth(regions, stored)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            known = isinstance(error, ValueError)
            reason = str(error) if known else "it is no annotation of Label Studio"
            raise ImageError(f"{self.path}, image {image.name}: {reason}") from error
        return truth.turned(stored, turn)


def parse_tasks(path: Path, content: list[Any]) -> LabelStudioFile:
    """Return the tasks in the content of a file. Raises ValueError, KeyError or TypeError."""
    tasks = defaultdict(list)
    for task in content:
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise ValueError("it is no list of Label Studio's tasks: they need `data`")
        for name in {image_path(v) for v in task["data"].values() if isinstance(v, str)}:
            tasks[name.rpartition("/")[2]].append((name, task))
    return LabelStudioFile(path, dict(tasks))


def image_path(address: str) -> str:
    """Return the path of an image in an address: of local storage, an upload, a bucket, the web."""
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d")
    path = local[-1] if local else unquote(parts.path)
    folder, slash, name = path.rpartition("/")
    if "/upload" in parts.path:
        name = _UPLOADED.sub("", name, count=1)
    return folder.lstrip("/") + slash + name if folder.lstrip("/") else name


def chosen_results(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the results of the annotation, or else the prediction, that counts."""
    done = [one for one in task.get("annotations") or () if not one.get("was_cancelled")]
    chosen = (done or task.get("predictions") or [{"result": []}])[0]
    results: list[Mapping[str, Any]] = chosen["result"]
    return results


def _regions(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in chosen_results(task) if region_kind(one) in REGIONS]


def region_kind(region: Mapping[str, Any]) -> str:
    """Return the kind of a region without its labels: `brush` for brush and brushlabels."""
    return str(region.get("type")).removesuffix("labels")


def is_plain_box(region: Mapping[str, Any]) -> bool:
    """Return whether a region is a rectangle that is not turned."""
    return region_kind(region) == "rectangle" and not region["value"].get("rotation")


def _truth(regions: Sequence[Mapping[str, Any]], size: Size) -> GroundTruth:
    if any(region.get("image_rotation") for region in regions):
        raise ValueError("its image is rotated in Label Studio, which is not supported")
    if regions and all(map(is_plain_box, regions)):
        return GroundTruth(boxes=clip_boxes((region_box(r["value"], size) for r in regions), size))
    labels = np.zeros(size, np.int32)
    for number, region in enumerate(regions, 1):
        draw_region(region, labels, number)
    return GroundTruth(labels)


def draw_region(region: Mapping[str, Any], labels: NDArray[np.int32], number: int) -> None:
    """Give the pixels of a region a number, in place. Raises ValueError, KeyError or TypeError."""
    kind, value, size = region_kind(region), region["value"], (labels.shape[0], labels.shape[1])
    if kind == "brush":
        labels[decode_brush(value["rle"], size)] = number
    else:
        fill_outline(labels, _corners(kind, value, size), number)


def region_box(value: Mapping[str, Any], size: Size) -> Box:
    """Return the box of a rectangle's value. Raises ValueError, KeyError or TypeError."""
    corners = _corners("rectangle", value, size)
    if not np.isfinite(corners).all():
        raise ValueError("a rectangle is outside of any image")
    (x0, y0), (x1, y1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return round(x0), round(y0), round(x1), round(y1)


def _corners(kind: str, value: Mapping[str, Any], size: Size) -> NDArray[np.float64]:
    """Return the corners of a shape in pixels; they are in per cent of width and height."""
    scale = np.array(size[::-1]) / 100
    if kind == "polygon":
        points = np.array(value["points"], np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            raise ValueError("a polygon is not [[x, y], …] of three corners or more")
        return points * scale
    start = np.array([value["x"], value["y"]], np.float64) * scale
    if kind == "rectangle":
        sides = np.array([value["width"], value["height"]], np.float64) * scale
        shape = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * sides
    else:
        radii = np.array([value["radiusX"], value["radiusY"]], np.float64) * scale
        angles = np.linspace(0, 2 * math.pi, _CORNERS, endpoint=False)
        shape = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii
    turn = math.radians(value.get("rotation") or 0)  # clockwise, around the corner or the center
    sine, cosine = math.sin(turn), math.cos(turn)
    return start + shape @ np.array([(cosine, sine), (-sine, cosine)])
