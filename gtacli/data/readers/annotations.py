"""Boxes of objects in VOC's annotation files (Everingham et al., 2010), as in LOST.

`xmin` and `ymin` count from 1, and `xmax` and `ymax` are inclusive, so a box is [xmin - 1, xmax)
(LOST, Siméoni et al., arXiv 2109.14279, `extract_gt_VOC` in its datasets.py, which TokenCut uses
too).
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from gtacli.images.decode import ImageError
from gtacli.images.sizes import Box, Size
from gtacli.runtime.regular import open_regular


def read_boxes(path: Path, size: Size | None = None, hard: bool = True) -> tuple[Box, ...]:
    """Read the boxes of an annotation's objects, not of their parts.

    Args:
        path: the annotation.
        size: expected (h, w) of the annotated image.
        hard: include objects that are marked truncated or difficult.

    Raises ImageError for a file that is missing, no VOC annotation, or of an image of another size.
    """
    try:
        with open_regular(path) as file:
            root = ElementTree.parse(file).getroot()
        objects = [o for o in root.findall("object") if hard or not _is_hard(o)]
        boxes = tuple(_box(o) for o in objects)
        annotated = tuple(int(root.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    except FileNotFoundError as error:
        raise ImageError(f"no such annotation: {path}") from error
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise ImageError(f"cannot read annotation {path}: {error}") from error
    if root.tag != "annotation":
        raise ImageError(f"{path} is not a VOC annotation")
    if size is not None and all(annotated) and annotated != size:
        h, w = annotated
        raise ImageError(
            f"annotation {path} is for {w} x {h} pixels, its image has {size[1]} x {size[0]}"
        )
    return boxes


def _is_hard(element: ElementTree.Element) -> bool:
    return "1" in (element.findtext("truncated"), element.findtext("difficult"))


def _box(element: ElementTree.Element) -> Box:
    sides = ("xmin", "ymin", "xmax", "ymax")
    texts = [element.findtext(f"bndbox/{side}") for side in sides]
    if None in texts:
        raise ValueError("an object has an incomplete bndbox")
    # A few values of VOC 2012 are not integers.
    x0, y0, x1, y1 = (int(float(text)) for text in texts if text is not None)
    return x0 - 1, y0 - 1, x1, y1
