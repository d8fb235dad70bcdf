"""Boxes of objects in VOC's annotation files (Everingham et al., 2010), as LOST reads them.

`xmin`, `ymin` count from 1 and `xmax`, `ymax` are inside, so a box is [xmin - 1, xmax) (LOST,
Siméoni et al., arXiv 2109.14279, `extract_gt_VOC` of its datasets.py; TokenCut took the file over).
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from gtacli.images.decode import ImageError
from gtacli.images.sizes import Box, Size


def read_boxes(path: Path, size: Size | None = None, hard: bool = True) -> tuple[Box, ...]:
    """The boxes of an annotation's objects, not of their parts.

    Args:
        size: (h, w) that the annotated image must have.
        hard: with those that are marked truncated or difficult.

    Raises ImageError for a file that is missing, no VOC annotation, or of an image of another size.
    """
    try:
        root = ElementTree.parse(path).getroot()
        objects = [o for o in root.findall("object") if hard or not _is_hard(o)]
        boxes = tuple(_box(o) for o in objects)
        said = tuple(int(root.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    except FileNotFoundError as error:
        raise ImageError(f"no such annotation: {path}") from error
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise ImageError(f"cannot read annotation {path}: {error}") from error
    if root.tag != "annotation":
        raise ImageError(f"{path} is no VOC annotation")
    if size is not None and all(said) and said != size:
        h, w = said
        raise ImageError(
            f"annotation {path} is of {w} x {h} pixels, its image {size[1]} x {size[0]}"
        )
    return boxes


def _is_hard(an_object: ElementTree.Element) -> bool:
    return "1" in (an_object.findtext("truncated"), an_object.findtext("difficult"))


def _box(an_object: ElementTree.Element) -> Box:
    sides = ("xmin", "ymin", "xmax", "ymax")
    texts = [an_object.findtext(f"bndbox/{side}") for side in sides]
    if None in texts:
        raise ValueError("an object without a whole bndbox")
    # A few of VOC 2012 are fractions.
    x0, y0, x1, y1 = (int(float(text)) for text in texts if text is not None)
    return x0 - 1, y0 - 1, x1, y1
