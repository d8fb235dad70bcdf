"""The sheet of `gta attention-map`: images and all models' maps side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gtacli.discovery.masks import mask_on
from gtacli.images.decode import decode
from gtacli.inference.attention_maps.base import AttentionMap
from gtacli.inference.attention_maps.export import ImageMaps
from gtacli.inference.attention_maps.extractor import MapExtractor
from gtacli.inference.attention_maps.files import MapFiles
from gtacli.rendering.colormap import palette
from gtacli.rendering.files import write_picture
from gtacli.rendering.heatmap import colorize, overlay_map, resize_map, value_range
from gtacli.rendering.sheet import ColorBar, SheetRow, draw_sheet, make_thumbnail


class MapSheet:
    """A picture of the first images' maps: a row per image, a column per map.

    All maps of a row share one color scale, so that models can be compared; a bar has its values.

    Args:
        file: where it is written; its suffix determines the format.
        extractors: of the maps.
        files: determines style and colors; arrays are shown as overlays.
        rows: the number of images.
    """

    def __init__(
        self, file: Path, extractors: Sequence[MapExtractor], files: MapFiles, rows: int
    ) -> None:
        self.file, self.extractors, self.files, self.most = file, extractors, files, rows
        self.columns: list[str] = []
        self.rows: list[SheetRow] = []

    def add(self, result: ImageMaps) -> None:
        """Draw an image's maps if there is a row left."""
        if len(self.rows) == self.most:
            return
        maps = [one for of_model in result.maps for one in of_model]
        picture = make_thumbnail(decode(result.image.source))
        low, high = value_range(
            np.concatenate([m.maps.numpy().ravel() for m in maps]), self.files.clip
        )
        drawn = (self._draw(picture, one, (low, high)) for one in maps)
        bar = None
        if self.files.style != "mask" or any(one.masks is None for one in maps):
            bar = ColorBar(low, high, palette(self.files.colors))
        self.rows.append(SheetRow([picture, *drawn], [result.image.below.as_posix()], bar))
        self.columns = [
            "image",
            *(
                _title(extractor, one, len(self.extractors) > 1)
                for extractor, of_model in zip(self.extractors, result.maps, strict=True)
                for one in of_model
            ),
        ]

    def _draw(
        self, picture: Image.Image, one: AttentionMap, scale: tuple[float, float]
    ) -> Image.Image:
        size = (picture.height, picture.width)
        if self.files.style == "mask" and one.masks is not None:
            return Image.fromarray(mask_on(size, one.masks.numpy()))
        grid = one.maps.numpy()
        gray = resize_map(grid if grid.ndim == 2 else grid.max(0), size, scale)
        if self.files.style == "heat":
            return colorize(gray, self.files.colors)
        return overlay_map(picture, gray, self.files.colors)

    def save(self) -> None:
        """Write the sheet, if it has any row. Raises RunError if that is impossible."""
        if self.rows:
            write_picture(draw_sheet(self.rows, self.columns), self.file, "sheet")


def _title(extractor: MapExtractor, one: AttentionMap, named: bool) -> str:
    heads = f"head {one.heads}" if isinstance(one.heads, int) else one.heads
    parts = (
        extractor.name if named else None,
        extractor.kind if extractor.kind != "cls" or not named else None,
        f"block {one.layer}",
        str(heads) if heads is not None else None,
    )
    return " · ".join(part for part in parts if part)
