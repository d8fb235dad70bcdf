"""Colormaps, from values in 0..1 to RGB.

The default, plasma, rises evenly in lightness, so it survives black-and-white print and color
blindness, and its bright end stands out from a grayscale photograph. `red` is the style of GTA's
figures: the image in gray, red where the attention is high.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

from kornia.color.colormap import ColorMap

Colormap = Literal["plasma", "viridis", "cividis", "turbo", "red"]
COLORMAPS: tuple[str, ...] = get_args(Colormap)
RED = (225, 20, 20)


@cache
def palette(name: Colormap) -> bytes:
    """Return the 256 RGB colors of a colormap in Pillow's palette format, lowest value first."""
    if name == "red":
        return bytes(round(255 + (part - 255) * i / 255) for i in range(256) for part in RED)
    colors = ColorMap(name, num_colors=256).colors  # (3, 256) in 0..1
    return bytes(colors.mul(255).round().byte().t().contiguous().numpy().tobytes())
