"""A found object on its image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

_COLOUR = (255, 196, 0)


def mask_overlay(
    image: Image.Image, mask_hw: NDArray[np.bool_], box: Sequence[int] | None
) -> Image.Image:
    """The object as it is, the rest dark and grey, a line around the mask and its box [x0, y0, x1,
    y1)."""
    line = max(1, round(min(image.size) / 150))
    # The border outside of the image counts as no object, so that the line closes there.
    inner = ndimage.binary_erosion(mask_hw, iterations=line)
    dark = np.asarray(image.convert("L"), dtype=np.float32)[..., None] * 0.4
    pixels = np.where(mask_hw[..., None], np.asarray(image), dark).astype(np.uint8)
    pixels[mask_hw & ~inner] = _COLOUR
    drawn = Image.fromarray(pixels)
    if box is not None:
        corners = (box[0], box[1], box[2] - 1, box[3] - 1)
        ImageDraw.Draw(drawn).rectangle(corners, outline=_COLOUR, width=line)
    return drawn
