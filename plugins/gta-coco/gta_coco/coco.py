"""Images of a file in COCO's format (cocodataset.org/#format-data)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_coco.annotations import AnnotatedImage, AnnotatedObject
from gtacli.data.objects import stated_size
from gtacli.data.readers.coco20k import read_box
from gtacli.data.readers.coco_file import draw_segmentation


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Outlines or run lengths, as they are in the file."""

    content: Any

    def draw(self, labels: NDArray[np.int32], number: int) -> None:
        draw_segmentation(self.content, labels, number)


def parse_coco_images(content: Any) -> tuple[AnnotatedImage, ...]:
    """Return the images in the content of a file.

    Raises ValueError, KeyError, TypeError or AttributeError for what is none.
    """
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= {*content}:
        raise ValueError("it needs `images`, `annotations` and `categories`")
    classes = {one["id"]: _text(one["name"]) for one in content["categories"]}
    objects = defaultdict(list)
    for one in content["annotations"]:
        if one["category_id"] not in classes:
            raise ValueError(f"category {one['category_id']!r:.20} has no name in `categories`")
        objects[one["image_id"]].append(one)
    return tuple(
        AnnotatedImage(
            (_text(image["file_name"]),),
            (size := stated_size(image.get("height"), image.get("width"))),
            tuple(_object(one, classes, size) for one in objects.get(image["id"], ())),
        )
        for image in content["images"]
    )


def _object(one: Any, classes: dict[Any, str], size: tuple[int, int] | None) -> AnnotatedObject:
    box = read_box(one["bbox"], size) if one.get("bbox") else None
    found = one.get("segmentation")
    shapes = (Segmentation(found),) if found else ()
    return AnnotatedObject(classes[one["category_id"]], box, shapes, one.get("iscrowd") == 1)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r:.40} is no name")
    return value
