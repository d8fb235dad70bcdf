"""Annotations in COCO's format: one JSON object of all images (cocodataset.org/#format-data)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gtacli.data.outlines import join, trace_borders
from gtacli.data.run_lengths import encode_runs
from gtacli.inference.segment.formats.base import (
    AnnotatedImage,
    AnnotationFormat,
    FoundObject,
    Records,
    as_text,
)
from gtacli.runtime.atomic import to_json, write_atomic
from gtacli.runtime.run_files import COCO_FILE


@dataclass(frozen=True)
class Coco(AnnotationFormat):
    """annotations.json: images, and their objects with outline, box, area and score.

    Attributes:
        outline: run lengths, or polygons: one for each part of a mask, its holes joined to it.
    """

    outline: Literal["rle", "polygon"] = "rle"

    def add(self, image: AnnotatedImage) -> tuple[list[str], Any]:
        height, width = image.size
        about = {"file_name": as_text(PurePath(image.stem)), "width": width, "height": height}
        return [], {"image": about, "annotations": [self._annotation(o) for o in image.objects]}

    def finish(self, records: Records) -> None:
        write_atomic(self.folder / COCO_FILE, lambda draft: self._write_all(draft, records))

    def _annotation(self, found: FoundObject) -> dict[str, Any]:
        x0, y0, x1, y1 = found.box
        return {
            "category_id": 1,
            "segmentation": self._segmentation(found.mask),
            "area": int(found.mask.sum()),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": 0,
            "score": found.confidence,
        }

    def _segmentation(self, mask: NDArray[np.bool_]) -> Any:
        if self.outline == "rle":
            return {"size": [*mask.shape], "counts": encode_runs(mask)}
        return [join(rings).ravel().tolist() for rings in trace_borders(mask)]

    def _write_all(self, draft: Path, records: Records) -> None:
        """Write the lists piece by piece; numbers are those of the order of images."""
        head = {
            "info": {"description": "objects found by gta segment"},
            "licenses": [],
            "categories": [{"id": 1, "name": self.category, "supercategory": ""}],
        }
        with draft.open("w", encoding="utf-8") as file:
            file.write(to_json(head)[:-1])
            for key, items in (("images", _images), ("annotations", _annotations)):
                file.write(f',\n"{key}": [')
                for number, item in enumerate(items(records)):
                    file.write(("," if number else "") + "\n" + to_json(item))
                file.write("]")
            file.write("}\n")


def _images(records: Records) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(records(), 1):
        yield {"id": number, **record["image"]}


def _annotations(records: Records) -> Iterator[dict[str, Any]]:
    numbers = count(1)
    for image, record in enumerate(records(), 1):
        for one in record["annotations"]:
            yield {"id": next(numbers), "image_id": image, **one}
