"""The files of attention maps: `RELATIVE/PATH/STEM.layerL.HEADS.png`, of arrays `.npy`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
from PIL import Image

from gtacli.data.inputs import InputImage
from gtacli.discovery.masks import mask_on
from gtacli.images.decode import decode
from gtacli.images.sizes import Size
from gtacli.inference.attention_maps.base import AttentionMap
from gtacli.inference.attention_maps.extractor import MapExtractor
from gtacli.inference.outputs import result_path, write_result
from gtacli.inference.results import AttentionMapFile
from gtacli.rendering.colormap import Colormap
from gtacli.rendering.heatmap import colorize, overlay_map, resize_map, value_range

Style = Literal["overlay", "heat", "mask", "raw"]
PNG_LEVEL = 1
"""Deflate level, 0 to 9. Higher ones hardly shrink photographs, and 6 takes three times as long."""


class SourceImage(NamedTuple):
    """An image that maps are drawn on.

    Attributes:
        image: its name.
        size: (h, w), upright.
        picture: the decoded image; None: it is read again if it is needed.
    """

    image: InputImage
    size: Size
    picture: Image.Image | None


@dataclass(frozen=True)
class MapFiles:
    """The options of what is drawn of each map, and where.

    Attributes:
        folder: None: nothing is written.
        style: the map over its image, the colored map, its mask (black and white), or the array.
        colors: the colormap of overlay and heat.
        clip: quantile of a map's values that gets the strongest color; below 1, a few patches of
            extreme attention do not hide the others.
        file: the path of a single image's map; several maps are named after it. None: files are
            named after the images, below `folder`.
    """

    folder: Path | None
    style: Style = "overlay"
    colors: Colormap = "plasma"
    clip: float = 1.0
    file: Path | None = None

    def write(
        self,
        source: SourceImage,
        extractors: Sequence[MapExtractor],
        maps: Sequence[Sequence[AttentionMap]],
    ) -> list[AttentionMapFile]:
        """Write the maps of an image; return a line of JSON for each.

        Args:
            maps: of the image, by each extractor.

        Raises ImageError for an image that can no longer be read, or whose name the file system
        refuses, RunError for a file that cannot be written.
        """
        if source.picture is None and self.style == "overlay":
            source = source._replace(picture=decode(source.image.source))
        several = len(extractors) > 1
        alone = sum(map(len, maps)) == 1
        lines = [
            {
                "image": source.image.path,
                **({"model": extractor.name} if several else {}),
                "output": self._write(source, extractor, one, several, alone),
                "layer": one.layer,
                "heads": one.heads,
                "grid": list(one.maps.shape[-2:]),
                "source_size": list(source.size),
            }
            for extractor, of_model in zip(extractors, maps, strict=True)
            for one in of_model
        ]
        return cast(list[AttentionMapFile], lines)

    def _write(
        self,
        source: SourceImage,
        extractor: MapExtractor,
        one: AttentionMap,
        several: bool,
        alone: bool,
    ) -> str | None:
        suffix = "npy" if self.style == "raw" else "png"
        ending = f".layer{one.layer}.{heads_name(extractor, one)}.{suffix}"
        if self.file is not None:
            ending = f".{extractor.name}{ending}" if several else ending
            path = self.file if alone else self.file.with_name(self.file.stem + ending)
        elif self.folder is None:
            return None
        else:
            folder = self.folder / extractor.name if several else self.folder
            path = result_path(folder, source.image.result_stem, ending)
        return write_result(path, self._saver(source, one))

    def _saver(self, source: SourceImage, one: AttentionMap) -> Callable[[Path], object]:
        if self.style == "raw":
            array = one.maps.numpy()

            def save(path: Path) -> None:
                with path.open("wb") as file:  # np.save would add a suffix to a mere path
                    np.save(file, array)

            return save
        drawn = self._draw(source, one)
        return lambda path: drawn.save(path, format="PNG", compress_level=PNG_LEVEL)

    def _draw(self, source: SourceImage, one: AttentionMap) -> Image.Image:
        if self.style == "mask":
            assert one.masks is not None
            return Image.fromarray(mask_on(source.size, one.masks.numpy())).convert("L")
        grid = one.maps.numpy()
        gray = resize_map(grid, source.size, value_range(grid, self.clip))
        if source.picture is None or self.style == "heat":
            return colorize(gray, self.colors)
        return overlay_map(source.picture, gray, self.colors)


def heads_name(extractor: MapExtractor, one: AttentionMap) -> str:
    """Return the part of a file's name that says the heads; of kinds other than cls, the kind."""
    if extractor.kind != "cls":
        return extractor.kind
    if isinstance(one.heads, int):
        return f"head{one.heads}"
    if isinstance(one.heads, tuple):
        return "heads" + "-".join(map(str, one.heads))
    return str(one.heads)
