"""Small datasets of each format, on which `gta plugins check` reads all that it checks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 60
NAMES = ("first.png", "second.png")
SPLITS = ("train", "val")
_CORNERS = ((5, 5), (25, 8), (15, 30))
_BOX = (30, 10, 55, 35)  # x0, y0, x1, y1


def write_images(folder: Path) -> None:
    """Write two images of noise."""
    for seed, name in enumerate(NAMES):
        pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_coco(folder: Path) -> None:
    """Write annotations in COCO's format."""
    x0, y0, x1, y1 = _BOX
    outline = [n for corner in _CORNERS for n in corner]
    square = [x0, y0, x1, y0, x1, y1, x0, y1]
    shapes = [
        (1, 1, [5, 5, 20, 25], outline),
        (2, 1, [5, 5, 20, 25], outline),
        (2, 2, [x0, y0, x1 - x0, y1 - y0], square),
    ]
    categories = [{"id": 1, "name": "triangle"}, {"id": 2, "name": "square"}]
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": kind,
            "bbox": box,
            "segmentation": [corners],
        }
        for number, (image, kind, box, corners) in enumerate(shapes, 1)
    ]
    for number, (split, name) in enumerate(zip(SPLITS, NAMES, strict=True), 1):
        image = {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
        own = [one for one in annotations if one["image_id"] == number]
        content = {"categories": categories, "images": [image], "annotations": own}
        (folder / f"{split}.json").write_text(json.dumps(content))


def write_cvat(folder: Path) -> None:
    """Write an export "CVAT for images 1.1"."""
    x0, y0, x1, y1 = _BOX
    points = ";".join(f"{x},{y}" for x, y in _CORNERS)
    triangle = f'<polygon label="triangle" points="{points}"/>'
    square = f'<box label="square" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}"/>'
    images = "".join(
        f'<image name="{name}" subset="{subset}" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
        for name, subset, shapes in zip(NAMES, SPLITS, (triangle, triangle + square), strict=True)
    )
    (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")


def write_label_studio(folder: Path) -> None:
    """Write an export of Label Studio in JSON."""
    x0, y0, x1, y1 = _BOX
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in _CORNERS]
    sides = {"width": 100 * (x1 - x0) / WIDTH, "height": 100 * (y1 - y0) / HEIGHT}
    box = {"x": 100 * x0 / WIDTH, "y": 100 * y0 / HEIGHT, **sides, "rectanglelabels": ["square"]}
    polygon = {"points": points, "polygonlabels": ["triangle"]}
    triangle = {"type": "polygonlabels", "value": polygon, **size}
    square = {"type": "rectanglelabels", "value": box, **size}
    for name, split, regions in zip(NAMES, SPLITS, ([triangle], [triangle, square]), strict=True):
        task = {"data": {"image": f"/data/upload/1/{name}"}, "annotations": [{"result": regions}]}
        (folder / f"{split}.json").write_text(json.dumps([task]))
