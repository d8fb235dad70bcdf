"""The files of maps: `RELATIVE/PATH/STEM.layerL.HEADS.png`, arrays with `.npy`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from gtacli.data.inputs import InputImage
from gtacli.discovery.masks import mask_on
from gtacli.images.decode import decode
from gtacli.images.sizes import Size
from gtacli.inference.attention_maps.extractor import Looker
from gtacli.inference.attention_maps.kinds import Seen
from gtacli.rendering.colormap import Colormap
from gtacli.rendering.heatmap import colorize, overlay_map, resize_map, value_range
from gtacli.runtime.atomic import write_atomic

Style = Literal["overlay", "heat", "mask", "raw"]
PNG_LEVEL = 1
"""Of deflate, 0 to 9. Photographs hardly get smaller above it, and 6 takes three times as long."""


@dataclass(frozen=True)
class MapFiles:
    """What is drawn of each map, and where.

    Attributes:
        folder: None: nothing is written.
        style: the map over its image, the map in colours, its mask (black and white), or the array.
        colours: of overlay and heat.
        clip: quantile of a map's values that has the strongest colour; below 1, a few patches of
            extreme attention do not hide the rest.
    """

    folder: Path | None
    style: Style = "overlay"
    colours: Colormap = "plasma"
    clip: float = 1.0

    def write(
        self,
        image: InputImage,
        size: Size,
        picture: Image.Image | None,
        lookers: Sequence[Looker],
        seen: Sequence[Sequence[Seen]],
    ) -> list[dict[str, Any]]:
        """A line of JSON for each map of an image.

        Args:
            size: (h, w) of the upright image.
            picture: the image; None: read again where it is needed.
            seen: of each looker its maps.

        Raises ImageError for an image that can no longer be read, RunError for a file that cannot
        be written.
        """
        if picture is None and self.style == "overlay":
            picture = decode(image.source)
        results = []
        for looker, maps in zip(lookers, seen, strict=True):
            folder = None
            if self.folder is not None:
                folder = self.folder / looker.name if len(lookers) > 1 else self.folder
            for one in maps:
                result: dict[str, Any] = {"image": image.path}
                if len(lookers) > 1:
                    result["model"] = looker.name
                results.append(
                    {
                        **result,
                        "output": self._write(folder, image, size, picture, looker, one),
                        "layer": one.layer,
                        "heads": one.heads,
                        "grid": list(one.maps.shape[-2:]),
                        "source_size": list(size),
                    }
                )
        return results

    def _write(
        self,
        folder: Path | None,
        image: InputImage,
        size: Size,
        picture: Image.Image | None,
        looker: Looker,
        seen: Seen,
    ) -> str | None:
        if folder is None:
            return None
        suffix = "npy" if self.style == "raw" else "png"
        name = f"{image.below.stem}.layer{seen.layer}.{heads_name(looker, seen)}.{suffix}"
        return write_atomic(folder / image.below.with_name(name), self._saver(size, picture, seen))

    def _saver(
        self, size: Size, picture: Image.Image | None, seen: Seen
    ) -> Callable[[Path], object]:
        if self.style == "raw":
            array = seen.maps.numpy()

            def save(path: Path) -> None:
                with path.open("wb") as file:  # np.save would add a suffix to a mere path
                    np.save(file, array)

            return save
        drawn = self._draw(size, picture, seen)
        return lambda path: drawn.save(path, format="PNG", compress_level=PNG_LEVEL)

    def _draw(self, size: Size, picture: Image.Image | None, seen: Seen) -> Image.Image:
        if self.style == "mask":
            assert seen.masks is not None
            return Image.fromarray(mask_on(size, seen.masks.numpy())).convert("L")
        grid = seen.maps.numpy()
        grey = resize_map(grid, size, value_range(grid, self.clip))
        if picture is None or self.style == "heat":
            return colorize(grey, self.colours)
        return overlay_map(picture, grey, self.colours)


def heads_name(looker: Looker, seen: Seen) -> str:
    """What stands in a file's name for the heads: of kinds other than cls, the kind."""
    if looker.kind_name != "cls":
        return looker.kind_name
    if isinstance(seen.heads, int):
        return f"head{seen.heads}"
    if isinstance(seen.heads, tuple):
        return "heads" + "-".join(map(str, seen.heads))
    return str(seen.heads)
