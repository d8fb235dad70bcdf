"""Several models on the same images, drawn beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from gtacli.data.truth import GroundTruth
from gtacli.discovery.masks import mask_on
from gtacli.images.decode import decode
from gtacli.images.sizes import Size
from gtacli.inference.objects import Seen
from gtacli.inference.segment.finish import Finished, Mask
from gtacli.rendering.heatmap import overlay_map, resize_map
from gtacli.rendering.masks import highlight_objects, outline_masks
from gtacli.rendering.sheet import SheetRow, draw_sheet, make_thumbnail

ROWS = 8
"""Images on a sheet: the first ones."""
_HEADLINES = {"jaccard": "Jaccard", "mean_iou": "IoU", "corloc": "CorLoc"}


def row(
    seen: Seen, truth: GroundTruth | None, finished: Sequence[tuple[Finished, Sequence[Mask]]]
) -> SheetRow:
    """An image, its truth if any, and what each model found. Raises ImageError."""
    image = make_thumbnail(decode(seen.image.source))
    size = (image.height, image.width)
    pictures: list[Image.Image | None] = [
        image,
        None if truth is None else _truth(image, truth, seen.size),
    ]
    for grids, (_, found) in zip(seen.grids, finished, strict=True):
        masks = [mask_on(size, mask) for mask in found]
        if grids.heads is None and grids.mask is not None:
            pictures.append(highlight_objects(image, masks))
        else:
            red = overlay_map(image, resize_map(grids.map, size, (0.0, 1.0)), "red")
            pictures.append(outline_masks(red, masks))
    captions = [seen.image.below.stem, "", *(_caption(one) for one, _ in finished)]
    return SheetRow(pictures, captions)


def draw(
    rows: Sequence[SheetRow], names: Sequence[str], summaries: Sequence[Mapping[str, Any]]
) -> Image.Image:
    """The sheet: each model's name over its mean figure. Without any truth its column is not
    there."""
    titles = ["image", "ground truth"]
    titles += [name + _headline(summary) for name, summary in zip(names, summaries, strict=True)]
    shown = [i for i in range(len(titles)) if i != 1 or any(row.pictures[1] for row in rows)]
    kept = [
        SheetRow([row.pictures[i] for i in shown], [row.captions[i] for i in shown]) for row in rows
    ]
    return draw_sheet(kept, [titles[i] for i in shown])


def _truth(image: Image.Image, truth: GroundTruth, whole: Size) -> Image.Image:
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


def _caption(one: Finished) -> str:
    if one.score is None:
        return ""
    said = []
    if one.score.iou is not None:
        said.append(f"IoU {100 * one.score.iou:.0f} %")
    if one.score.jaccard is not None:
        said.append(f"best head {100 * one.score.jaccard:.0f} %")
    return ", ".join(said)


def _headline(summary: Mapping[str, Any]) -> str:
    for key, name in _HEADLINES.items():
        if summary.get(key) is not None:
            return f"\n{name} {100 * summary[key]:.1f} %"
    return ""
