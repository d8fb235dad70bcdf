"""The evaluation view of an image by Pillow alone, for programs without torch.

It is that of `preprocessing`: of an image that is shrunk the same pixels, of an enlarged one to a
level or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gtacli.images.decode import RESAMPLING, load
from gtacli.images.packed import PackedImage
from gtacli.images.sizes import Size, cover_size, ends_to_cut, resize_target

Pixels = NDArray[np.uint8]


def load_whole(
    path: Path | PackedImage, image_size: Size, crop_pct: float, interpolation: str
) -> Pixels:
    """Return an image as it is before the crop, uint8 (h, w, 3). Raises ImageError."""
    cover = resize_target(image_size, crop_pct)
    pixels: Pixels = load(path, cover, interpolation)
    height, width = pixels.shape[:2]
    top, left = ends_to_cut((height, width), cover)
    pixels = pixels[top : height - top, left : width - left]
    height, width = pixels.shape[:2]
    size = cover_size(height, width, cover, enlarge=True)
    if size != (height, width):
        image = Image.fromarray(pixels).resize(size[::-1], RESAMPLING[interpolation])
        pixels = np.asarray(image)
    return pixels


def center_crop(pixels: Pixels, size: Size) -> Pixels:
    """Return the center of an image (h, w, 3)."""
    top, left = (round((have - want) / 2) for have, want in zip(pixels.shape, size, strict=False))
    return pixels[top : top + size[0], left : left + size[1]]


def corners(pixels: Pixels, size: Size) -> Sequence[Pixels]:
    """Return the corners of an image: top left, top right, bottom left, bottom right."""
    bottom, right = pixels.shape[0] - size[0], pixels.shape[1] - size[1]
    starts = ((0, 0), (0, right), (bottom, 0), (bottom, right))
    return [pixels[top : top + size[0], left : left + size[1]] for top, left in starts]
