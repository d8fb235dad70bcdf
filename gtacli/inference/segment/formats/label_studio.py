"""Annotations as tasks of Label Studio, whose predictions are the objects.

Format: labelstud.io/guide/predictions; brush strokes are in the code of
`gtacli.data.brush_lengths`, the corners of polygons in per cent of width and height.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from gtacli.data.brush_lengths import encode_brush
from gtacli.data.outlines import join, trace_borders
from gtacli.images.sizes import Size
from gtacli.inference.segment.formats.base import (
    AnnotatedImage,
    AnnotationFormat,
    FoundObject,
    Records,
)
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.escapes import escape_controls
from gtacli.runtime.run_files import LABEL_CONFIG_FILE, TASKS_FILE

_FROM, _TO = "label", "image"
_CONFIG = """<View>
  <Image name="{to}" value="${to}"/>
  <{kind} name="{name}" toName="{to}">
    <Label value={category}/>
  </{kind}>
</View>
"""


@dataclass(frozen=True)
class LabelStudio(AnnotationFormat):
    """tasks.json, and label-config.xml for the project's labeling interface.

    Attributes:
        outline: brush strokes, or polygons: one for each part of a mask, its holes joined to it.
        prefix: of the images' addresses, before their paths.
    """

    outline: Literal["rle", "polygon"] = "rle"
    prefix: str = ""

    def add(self, image: AnnotatedImage) -> tuple[list[str], Any]:
        regions = [
            region
            for number, found in enumerate(image.objects)
            for region in self._regions(number, found, image.size)
        ]
        scores = [found.confidence for found in image.objects]
        prediction = {"score": max(scores, default=0.0), "result": regions}
        path = PurePath(image.stem).as_posix().encode("utf-8", "surrogateescape")
        address = self.prefix + quote(path)
        return [], {"data": {_TO: address}, "predictions": [prediction]}

    def finish(self, records: Records) -> None:
        write_atomic(self.folder / TASKS_FILE, lambda draft: _write_all(draft, records))
        kind = "BrushLabels" if self.outline == "rle" else "PolygonLabels"
        category = quoteattr(escape_controls(self.category))
        text = _CONFIG.format(to=_TO, name=_FROM, kind=kind, category=category)

        def write(path: Path) -> None:
            path.write_text(text, encoding="utf-8")

        write_atomic(self.folder / LABEL_CONFIG_FILE, write)

    def _regions(self, number: int, found: FoundObject, size: Size) -> Iterator[dict[str, Any]]:
        kind = "brushlabels" if self.outline == "rle" else "polygonlabels"
        for part, value in enumerate(self._shapes(found.mask)):
            yield {
                "id": f"{number}-{part}",
                "type": kind,
                "from_name": _FROM,
                "to_name": _TO,
                "original_width": size[1],
                "original_height": size[0],
                "image_rotation": 0,
                "score": found.confidence,
                "value": {**value, kind: [self.category]},
            }

    def _shapes(self, mask: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
        if self.outline == "rle":
            # As text, which is read back much faster than a list of numbers.
            yield {"format": "rle", "rle": b64encode(bytes(encode_brush(mask))).decode()}
            return
        for rings in trace_borders(mask):
            points = 100 * join(rings) / np.array(mask.shape[::-1])
            yield {"points": points.tolist(), "closed": True}


def _write_all(draft: Path, records: Records) -> None:
    with draft.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, task in enumerate(records()):
            for region in task["predictions"][0]["result"]:
                if "rle" in region["value"]:
                    region["value"]["rle"] = [*b64decode(region["value"]["rle"])]
            file.write(("," if number else "") + "\n" + json.dumps(task))
        file.write("]\n")
