"""Colours of a map: from 0..1 to RGB.

The default, plasma, rises evenly in lightness, so that it survives a black and white print and
colour blindness, and its bright end stands out from a photograph in grey (viridis and cividis do
both as well and are quieter). `red` is GTA's figure: the image in grey, red where the attention is.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

from kornia.color.colormap import ColorMap

Colours = Literal["plasma", "viridis", "cividis", "turbo", "red"]
COLOURS: tuple[str, ...] = get_args(Colours)
RED = (225, 20, 20)


@cache
def palette(name: Colours) -> bytes:
    """256 RGB colours of a map, lowest value first, as Pillow's palettes are."""
    if name == "red":
        return bytes(round(255 + (part - 255) * i / 255) for i in range(256) for part in RED)
    colours = ColorMap(name, num_colors=256).colors  # (3, 256) in 0..1
    return bytes(colours.mul(255).round().byte().t().contiguous().numpy().tobytes())
