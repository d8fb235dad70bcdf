"""A map over its image. All of it in Pillow's own loops, which run without Python's lock, so that
threads draw while others compute."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gtacli.rendering.color import RED, Colours, palette

FAINT, STRONG = 0.15, 0.85
"""Share of the colour in an overlay where the map is lowest and highest: the image stays legible
below it, and a dark colour does not hide what is not attended to."""

Range = tuple[float, float]


def smooth(map_ghgw: NDArray[np.float32], size: tuple[int, int], scale: Range) -> Image.Image:
    """A map resampled bicubically to (h, w) pixels, `scale` brought to 0..255 in mode L."""
    low, high = scale
    spread = max(high - low, float(np.finfo(np.float32).tiny))
    unit = ((map_ghgw - low) / spread * 255).astype(np.float32)
    # Bicubic overshoots at a lone peak: Pillow clips when it converts, after the resampling.
    wide = Image.fromarray(unit).resize(size[::-1], Image.Resampling.BICUBIC)
    return wide.convert("L")


def range_of(maps: NDArray[np.float32], clip: float = 1.0) -> Range:
    """The scale of a map, or of several that are to be compared: from the least value to the
    quantile `clip`, the greatest by default."""
    return float(maps.min()), float(np.quantile(maps, clip))


def heat(grey: Image.Image, colours: Colours) -> Image.Image:
    """A map (mode L) in colours."""
    coloured = Image.frombytes("P", grey.size, grey.tobytes())
    coloured.putpalette(palette(colours))
    return coloured.convert("RGB")


def overlay(image: Image.Image, grey: Image.Image, colours: Colours) -> Image.Image:
    """The image in grey under its map (mode L, of the same size), stronger where it is high."""
    red = colours == "red"
    faint = 0.0 if red else FAINT
    share = grey.point([round(255 * (faint + (STRONG - faint) * v / 255)) for v in range(256)])
    ink = Image.new("RGB", grey.size, RED) if red else heat(grey, colours)
    return Image.composite(ink, image.convert("L").convert("RGB"), share)
