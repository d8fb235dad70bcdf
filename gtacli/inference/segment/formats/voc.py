"""Annotations in Pascal VOC's format: an XML file of boxes and two masks for each image.

Boxes count from 1 and include their last pixel (`gtacli.data.readers.annotations`).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gtacli.inference.segment.formats.base import (
    AnnotatedImage,
    AnnotationFormat,
    FoundObject,
    Records,
    as_text,
)
from gtacli.runtime.escapes import escape_controls

_MOST = 254  # ids; 255 is void


class Voc(AnnotationFormat):
    """Annotations/STEM.xml, SegmentationClass/STEM.png and SegmentationObject/STEM.png."""

    suffix: ClassVar[str | None] = ".xml"

    def add(self, image: AnnotatedImage) -> tuple[list[str], Any]:
        ids = np.zeros(image.size, np.uint8)
        # The main object is drawn last, over the others.
        for number, found in reversed([*enumerate(image.objects[:_MOST], 1)]):
            ids[found.mask] = number
        text = ElementTree.tostring(self._annotation(image), "utf-8", xml_declaration=True)
        return [
            self._write("Annotations", image.stem, ".xml", lambda path: path.write_bytes(text)),
            self._draw("SegmentationClass", image.stem, np.minimum(ids, 1)),
            self._draw("SegmentationObject", image.stem, ids),
        ], None

    def finish(self, records: Records) -> None:
        """Write nothing: every image has its files."""

    def _draw(self, part: str, stem: str, ids: NDArray[np.uint8]) -> str:
        picture = Image.fromarray(ids)
        picture.putpalette(_colors())

        def write(path: Path) -> None:
            picture.save(path, format="PNG")

        return self._write(part, stem, ".png", write)

    def _annotation(self, image: AnnotatedImage) -> ElementTree.Element:
        root = ElementTree.Element("annotation")
        height, width = image.size
        _add(root, "folder", _text(image.below.parent))
        _add(root, "filename", _text(PurePath(image.below.name)))
        size = ElementTree.SubElement(root, "size")
        for key, value in (("width", width), ("height", height), ("depth", 3)):
            _add(size, key, value)
        _add(root, "segmented", 1)
        for found in image.objects:
            self._add_object(root, found)
        ElementTree.indent(root, "\t")
        return root

    def _add_object(self, root: ElementTree.Element, found: FoundObject) -> None:
        element = ElementTree.SubElement(root, "object")
        x0, y0, x1, y1 = found.box
        _add(element, "name", escape_controls(self.category))
        _add(element, "pose", "Unspecified")
        _add(element, "truncated", 0)
        _add(element, "difficult", 0)
        _add(element, "confidence", f"{found.confidence:.6g}")
        box = ElementTree.SubElement(element, "bndbox")
        for key, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            _add(box, key, value)


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)


def _text(path: PurePath) -> str:
    # XML has no control characters, not even escaped.
    return escape_controls(as_text(path))


@lru_cache(maxsize=1)
def _colors() -> bytes:
    """Return VOC's 256 colors: the bits of a number, spread over the highest bits of R, G and B."""
    numbers = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (numbers >> 3 * bit + channel & 1).astype(np.uint8) << 7 - bit
    return colors.tobytes()
