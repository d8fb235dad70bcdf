"""The sheet of `gta attention-map`: images and the maps of all models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gtacli.discovery.masks import mask_on
from gtacli.images.decode import decode
from gtacli.inference.attention_maps.extractor import Looker
from gtacli.inference.attention_maps.files import MapFiles
from gtacli.inference.attention_maps.kinds import Seen
from gtacli.inference.attention_maps.stream import Looked
from gtacli.rendering.heatmap import colorize, overlay_map, resize_map, value_range
from gtacli.rendering.sheet import SheetRow, draw_sheet, make_thumbnail
from gtacli.runtime.atomic import write_atomic


class Sheet:
    """Collects the first images' maps; a row an image, a column a map.

    All maps of a row share one scale of colours, so that models can be compared.

    Args:
        file: where it is written; its suffix says the format.
        lookers: whose maps come.
        files: says style and colours; arrays are shown as overlays.
        rows: how many images.
    """

    def __init__(self, file: Path, lookers: Sequence[Looker], files: MapFiles, rows: int) -> None:
        self.file, self.lookers, self.files, self.most = file, lookers, files, rows
        self.columns: list[str] = []
        self.rows: list[SheetRow] = []

    def add(self, looked: Looked) -> None:
        """An image's maps, as long as there is room."""
        if not looked.seen or len(self.rows) == self.most:
            return
        maps = [one for seen in looked.seen for one in seen]
        picture = make_thumbnail(decode(looked.image.source))
        low, high = value_range(
            np.concatenate([m.maps.numpy().ravel() for m in maps]), self.files.clip
        )
        drawn = (self._drawn(picture, one, (low, high)) for one in maps)
        self.rows.append(SheetRow([picture, *drawn], [looked.image.below.as_posix()]))
        self.columns = [
            "image",
            *(
                _title(looker, one, len(self.lookers) > 1)
                for looker, seen in zip(self.lookers, looked.seen, strict=True)
                for one in seen
            ),
        ]

    def _drawn(self, picture: Image.Image, seen: Seen, scale: tuple[float, float]) -> Image.Image:
        size = (picture.height, picture.width)
        if self.files.style == "mask" and seen.masks is not None:
            return Image.fromarray(mask_on(size, seen.masks.numpy()))
        grid = seen.maps.numpy()
        grey = resize_map(grid if grid.ndim == 2 else grid.max(0), size, scale)
        if self.files.style == "heat":
            return colorize(grey, self.files.colours)
        return overlay_map(picture, grey, self.files.colours)

    def save(self) -> None:
        """Write what there is. Raises RunError where it cannot be written."""
        if self.rows:
            drawn = draw_sheet(self.rows, self.columns)
            kind = "JPEG" if self.file.suffix.lower() in (".jpg", ".jpeg") else "PNG"
            write_atomic(self.file, lambda path: drawn.save(path, format=kind), "sheet")


def _title(looker: Looker, seen: Seen, named: bool) -> str:
    heads = f"head {seen.heads}" if isinstance(seen.heads, int) else seen.heads
    parts = (
        looker.name if named else None,
        looker.kind_name if looker.kind_name != "cls" or not named else None,
        f"block {seen.layer}",
        str(heads) if heads is not None else None,
    )
    return " · ".join(part for part in parts if part)
