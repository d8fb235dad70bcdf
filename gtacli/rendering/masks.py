"""Object masks and boxes, drawn on their image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

_LINE_COLOR = (255, 196, 0)


def highlight_objects(
    image: Image.Image, masks_hw: Sequence[NDArray[np.bool_]], boxes: Sequence[Sequence[int]] = ()
) -> Image.Image:
    """Draw the background dark and gray, and outline every mask and box [x0, y0, x1, y1)."""
    line = _line_width(image)
    dark = np.asarray(image.convert("L"), dtype=np.float32)[..., None] * 0.4
    objects = np.logical_or.reduce(masks_hw)
    pixels = np.where(objects[..., None], np.asarray(image), dark).astype(np.uint8)
    _draw_outlines(pixels, masks_hw, line)
    drawn = Image.fromarray(pixels)
    for x0, y0, x1, y1 in boxes:
        corners = (x0, y0, x1 - 1, y1 - 1)
        ImageDraw.Draw(drawn).rectangle(corners, outline=_LINE_COLOR, width=line)
    return drawn


def outline_masks(image: Image.Image, masks_hw: Sequence[NDArray[np.bool_]]) -> Image.Image:
    """Draw a line around every mask."""
    pixels = np.array(image)
    _draw_outlines(pixels, masks_hw, _line_width(image))
    return Image.fromarray(pixels)


def _line_width(image: Image.Image) -> int:
    return max(1, round(min(image.size) / 150))


def _draw_outlines(
    pixels_hw3: NDArray[np.uint8], masks_hw: Sequence[NDArray[np.bool_]], line: int
) -> None:
    for mask in masks_hw:
        # Pixels outside of the image count as background, so the line closes at the border.
        pixels_hw3[mask & ~ndimage.binary_erosion(mask, iterations=line)] = _LINE_COLOR
