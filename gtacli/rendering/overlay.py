"""Found objects on their image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

_COLOUR = (255, 196, 0)


def mask_overlay(
    image: Image.Image, masks_hw: Sequence[NDArray[np.bool_]], boxes: Sequence[Sequence[int]] = ()
) -> Image.Image:
    """The objects as they are, the rest dark and grey, a line around each mask and each box
    [x0, y0, x1, y1)."""
    line = max(1, round(min(image.size) / 150))
    dark = np.asarray(image.convert("L"), dtype=np.float32)[..., None] * 0.4
    objects = np.logical_or.reduce(masks_hw)
    pixels = np.where(objects[..., None], np.asarray(image), dark).astype(np.uint8)
    _outline(pixels, masks_hw, line)
    drawn = Image.fromarray(pixels)
    for x0, y0, x1, y1 in boxes:
        corners = (x0, y0, x1 - 1, y1 - 1)
        ImageDraw.Draw(drawn).rectangle(corners, outline=_COLOUR, width=line)
    return drawn


def outlined(image: Image.Image, masks_hw: Sequence[NDArray[np.bool_]]) -> Image.Image:
    """The image with a line around each mask."""
    pixels = np.array(image)
    _outline(pixels, masks_hw, max(1, round(min(image.size) / 150)))
    return Image.fromarray(pixels)


def _outline(
    pixels_hw3: NDArray[np.uint8], masks_hw: Sequence[NDArray[np.bool_]], line: int
) -> None:
    for mask in masks_hw:
        # The border outside of the image counts as no object, so that the line closes there.
        pixels_hw3[mask & ~ndimage.binary_erosion(mask, iterations=line)] = _COLOUR
