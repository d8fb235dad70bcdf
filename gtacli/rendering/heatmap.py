"""Heat maps, drawn alone or over their image.

Everything runs in Pillow's own loops, which release the GIL, so threads can draw while other
threads compute.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gtacli.rendering.colormap import RED, Colormap, palette

FAINT, STRONG = 0.15, 0.85
"""The opacity of an overlay at the lowest and the highest value: the image stays legible below it,
and a dark color does not hide the regions with little attention."""

ValueRange = tuple[float, float]


def resize_map(
    map_ghgw: NDArray[np.float32], size: tuple[int, int], scale: ValueRange
) -> Image.Image:
    """Resample a map bicubically to (h, w) pixels in mode L; `scale` becomes 0..255."""
    low, high = scale
    spread = max(high - low, float(np.finfo(np.float32).tiny))
    unit = ((map_ghgw - low) / spread * 255).astype(np.float32)
    # Bicubic overshoots at a lone peak: Pillow clips when it converts, after the resampling.
    wide = Image.fromarray(unit).resize(size[::-1], Image.Resampling.BICUBIC)
    return wide.convert("L")


def value_range(maps: NDArray[np.float32], clip: float = 1.0) -> ValueRange:
    """Return the range of one map, or the shared range of several that are to be compared.

    It goes from the minimum to the quantile `clip`, by default the maximum.
    """
    return float(maps.min()), float(np.quantile(maps, clip))


def colorize(gray: Image.Image, colormap: Colormap) -> Image.Image:
    """Draw a map (mode L) in the colors of a colormap."""
    colored = Image.frombytes("P", gray.size, gray.tobytes())
    colored.putpalette(palette(colormap))
    return colored.convert("RGB")


def overlay_map(image: Image.Image, gray: Image.Image, colormap: Colormap) -> Image.Image:
    """Draw a map (mode L) over its image in gray, more opaque where the map is high.

    Map and image have the same size.
    """
    red = colormap == "red"
    faint = 0.0 if red else FAINT
    opacity = gray.point([round(255 * (faint + (STRONG - faint) * v / 255)) for v in range(256)])
    ink = Image.new("RGB", gray.size, RED) if red else colorize(gray, colormap)
    return Image.composite(ink, image.convert("L").convert("RGB"), opacity)
