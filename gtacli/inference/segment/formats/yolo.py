"""Annotations in Ultralytics YOLO's format for segmentation: a polygon per line.

Polygons run through the centers of the pixels at the border, since the format's readers draw them
with OpenCV, which fills the border too. Readers round or truncate to whole pixels; a quarter of a
pixel more leaves both at the same one.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gtacli.data.outlines import join, trace_borders, trace_centers
from gtacli.images.sizes import Size
from gtacli.inference.segment.formats.base import (
    AnnotatedImage,
    AnnotationFormat,
    FoundObject,
    Records,
)
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.run_files import YOLO_FILE


class Yolo(AnnotationFormat):
    """labels/STEM.txt for each image, and data.yaml, which expects the images in `images`."""

    suffix: ClassVar[str | None] = ".txt"

    def add(self, image: AnnotatedImage) -> tuple[list[str], Any]:
        text = "".join(_line(found, image.size) for found in image.objects)
        return [self._write("labels", image.stem, ".txt", lambda path: path.write_text(text))], None

    def finish(self, records: Records) -> None:
        # A name in JSON is one in YAML, whatever its characters.
        text = f"train: images\nval: images\nnames:\n  0: {json.dumps(self.category)}\n"

        def write(path: Path) -> None:
            path.write_text(text)

        write_atomic(self.folder / YOLO_FILE, write)


def _line(found: FoundObject, size: Size) -> str:
    """Return a class and the polygon as fractions of width and height.

    Holes and parts are joined by lines one pixel wide.
    """
    rings = [trace_centers(ring) for ring in chain.from_iterable(trace_borders(found.mask))]
    points = (join(rings) + 0.25) / np.array(size[::-1])
    return " ".join(["0", *(f"{n:.7g}" for n in points.ravel().tolist())]) + "\n"
