"""The sheet of `gta segment`: the objects by several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from gtacli.data.objects import GroundTruth
from gtacli.discovery.masks import mask_on
from gtacli.images.decode import decode
from gtacli.images.sizes import Size
from gtacli.inference.objects import ImageObjects
from gtacli.inference.segment.masks import ImageResult, Mask
from gtacli.rendering.heatmap import overlay_map, resize_map
from gtacli.rendering.masks import highlight_objects, outline_masks
from gtacli.rendering.sheet import SheetRow, draw_sheet, make_thumbnail

ROWS = 8
"""The number of images on a sheet: the first ones."""
_HEADLINES = {"jaccard": "Jaccard", "mean_iou": "IoU", "corloc": "CorLoc"}


def row(
    found: ImageObjects,
    truth: GroundTruth | None,
    results: Sequence[tuple[ImageResult, Sequence[Mask]]],
) -> SheetRow:
    """Draw an image, its ground truth if any, and each model's objects. Raises ImageError."""
    image = make_thumbnail(decode(found.image.source))
    size = (image.height, image.width)
    pictures: list[Image.Image | None] = [
        image,
        None if truth is None else _draw_truth(image, truth, found.size),
    ]
    for grids, (_, full_masks) in zip(found.grids, results, strict=True):
        masks = [mask_on(size, mask) for mask in full_masks]
        if grids.heads is None and grids.mask is not None:
            pictures.append(highlight_objects(image, masks))
        else:
            red = overlay_map(image, resize_map(grids.map, size, (0.0, 1.0)), "red")
            pictures.append(outline_masks(red, masks))
    captions = [found.image.below.stem, "", *(_caption(result) for result, _ in results)]
    return SheetRow(pictures, captions)


def draw(
    rows: Sequence[SheetRow], names: Sequence[str], summaries: Sequence[Mapping[str, Any]]
) -> Image.Image:
    """Draw the sheet: each model's name over its mean score, and its images below.

    Without any ground truth its column is left out.
    """
    titles = ["image", "ground truth"]
    titles += [name + _headline(summary) for name, summary in zip(names, summaries, strict=True)]
    used = [i for i in range(len(titles)) if i != 1 or any(row.pictures[1] for row in rows)]
    kept = [
        SheetRow([row.pictures[i] for i in used], [row.captions[i] for i in used]) for row in rows
    ]
    return draw_sheet(kept, [titles[i] for i in used])


def _draw_truth(image: Image.Image, truth: GroundTruth, whole: Size) -> Image.Image:
    size = (image.height, image.width)
    boxes = truth.boxes or ()
    if truth.labels is None:
        masks = [np.ones(size, bool)]
    else:
        labels = mask_on(size, truth.labels)
        masks = [labels == n for n in np.unique(labels) if n > 0] or [labels > 0]
    y, x = (a / b for a, b in zip(size, whole, strict=True))
    scaled = [(x * a, y * b, x * c, y * d) for a, b, c, d in boxes]
    return highlight_objects(image, masks, [tuple(map(round, box)) for box in scaled])


def _caption(result: ImageResult) -> str:
    if result.score is None:
        return ""
    scores = {"IoU": result.score.iou, "best head": result.score.jaccard}
    return ", ".join(f"{k} {100 * v:.0f} %" for k, v in scores.items() if v is not None)


def _headline(summary: Mapping[str, Any]) -> str:
    for key, name in _HEADLINES.items():
        if summary.get(key) is not None:
            return f"\n{name} {100 * summary[key]:.1f} %"
    return ""
