"""Images of an export of Label Studio in JSON (labelstud.io/guide/export).

Brush strokes, polygons, rectangles and ellipses are objects; choices are classes of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gta_coco.annotations import AnnotatedImage, AnnotatedObject
from gtacli.data.objects import stated_size
from gtacli.data.readers.label_studio import (
    REGIONS,
    chosen_results,
    draw_region,
    image_path,
    is_plain_box,
    region_box,
    region_kind,
)
from gtacli.images.find import is_image
from gtacli.images.sizes import Size

UNNAMED = "object"
"""The class of a region without a label."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region, as it is in the file."""

    content: Mapping[str, Any]

    def draw(self, labels: NDArray[np.int32], number: int) -> None:
        draw_region(self.content, labels, number)


def parse_label_studio(content: Any) -> tuple[AnnotatedImage, ...]:
    """Return the images in the content of a file.

    Raises ValueError, KeyError, TypeError or AttributeError for what is none.
    """
    if not isinstance(content, list):
        raise ValueError("it is no list of Label Studio's tasks")
    return tuple(_image(task) for task in content)


def _image(task: Any) -> AnnotatedImage:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise ValueError("it is no list of Label Studio's tasks: they need `data`")
    results = chosen_results(task)
    regions = [one for one in results if region_kind(one) in REGIONS]
    if any(one.get("image_rotation") for one in regions):
        raise ValueError("an image is rotated in Label Studio, which is not supported")
    sizes = {stated_size(r.get("original_height"), r.get("original_width")) for r in regions}
    sizes.discard(None)
    if len(sizes) > 1:
        raise ValueError("the regions of a task are of images of several sizes")
    size = sizes.pop() if sizes else None
    if regions and size is None:
        raise ValueError("the regions of a task do not state the size of their image")
    labels = {r.get("id"): _words(r) for r in results if r.get("type") == "labels"}
    tags = [word for r in results if r.get("type") == "choices" for word in _words(r)]
    return AnnotatedImage(
        _names(task["data"]),
        size,
        tuple(_object(one, size, labels) for one in regions if size is not None),
        tuple(dict.fromkeys(tags)),
    )


def _names(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths that may name the image: without Label Studio's mark of uploads, and with.

    Raises ValueError if a task has none.
    """
    texts = [value for value in data.values() if isinstance(value, str)]
    found = [path for text in texts for path in (image_path(text), text) if is_image(path)]
    if not found:
        raise ValueError("the `data` of a task name no image")
    return tuple(dict.fromkeys(found))


def _object(
    region: Mapping[str, Any], size: Size, labels: Mapping[Any, list[str]]
) -> AnnotatedObject:
    plain = is_plain_box(region)
    box = region_box(region["value"], size) if plain else None
    name = (_words(region) or labels.get(region.get("id")) or [UNNAMED])[0]
    return AnnotatedObject(name, box, (Region(region),), plain=plain)


def _words(result: Mapping[str, Any]) -> list[str]:
    """Return the labels or choices of a result."""
    found = result["value"].get(str(result.get("type")))
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
