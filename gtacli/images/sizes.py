"""Image sizes, and any PIL image as upright RGB: EXIF orientation, CMYK, 16 bit, alpha."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Size = tuple[int, int]
"""(height, width)."""
Box = tuple[int, int, int, int]
"""[x0, y0, x1, y1) in pixels."""
LARGEST_SIDE = 1 << 20
"""Bound of coordinates, in pixels; the formats of images have 65,535 or fewer."""
_BAND = 1 << 22  # pixels that are converted at a time


def cover_size(height: int, width: int, cover: Size, *, enlarge: bool = False) -> Size:
    """Return the size of the same aspect ratio that just covers `cover`.

    A smaller image keeps its size, unless `enlarge`.
    """
    scale = max(cover[0] / height, cover[1] / width)
    if scale >= 1 and not enlarge:
        return height, width
    return max(cover[0], round(height * scale)), max(cover[1], round(width * scale))


def check_box(box: Sequence[float], size: Size | None = None) -> None:
    """Raise ValueError unless a box [x0, y0, x1, y1) has an area, and lies in its image.

    Args:
        size: (h, w) of the image, if known. Annotations that count otherwise, or are rounded, may
            exceed it by a pixel.
    """
    h, w = size or (LARGEST_SIDE, LARGEST_SIDE)
    x0, y0, x1, y1 = box
    shown = "[" + ", ".join(f"{number:.6g}" for number in box) + "]"
    if not (x0 >= -1 and y0 >= -1 and x1 <= w + 1 and y1 <= h + 1):  # also for NaN
        bounds = f"its image of {w} x {h} pixels" if size else "any image"
        raise ValueError(f"the box {shown} (x0, y0, x1, y1) is outside of {bounds}")
    if not (min(x1, w) > max(x0, 0) and min(y1, h) > max(y0, 0)):
        raise ValueError(f"the box {shown} (x0, y0, x1, y1) has no area")


def fit_aspect(image: Size, like: Size, patch: Size) -> Size:
    """Return a size with about `image`'s aspect ratio and as many patches as `like`.

    It is a whole number of patches, at least one per side, and has at most an eighth more patches.
    All arguments and the result are (height, width) in pixels.
    """
    patches = (like[0] // patch[0]) * (like[1] // patch[1])
    # Patches need not be square: the aspect ratio is that of the grid.
    aspect = (image[0] / patch[0]) / (image[1] / patch[1])
    rows = max(1, min(patches, round((patches * aspect) ** 0.5)))
    columns = max(1, min(patches, round((patches / aspect) ** 0.5)))
    while rows * columns > patches * 9 / 8 and max(rows, columns) > 1:
        rows, columns = (rows - 1, columns) if rows >= columns else (rows, columns - 1)
    return rows * patch[0], columns * patch[1]


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Rotate an image as its EXIF says, put it on white, and convert it to 8-bit RGB."""
    return _rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF in a readable image
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert gray of 16 bit, 32 bit or float. Pillow would clip all above 255 to white."""
    values = np.asarray(image)
    rows = max(1, _BAND // max(1, image.width))  # float64 of all would be 8 bytes a pixel, 4 times
    bands = [slice(start, start + rows) for start in range(0, image.height, rows)]
    top = max((_finite(values[band]).max(initial=0.0) for band in bands), default=0.0)
    if image.mode == "F":
        full = 1.0 if top <= 1 else 255.0 if top <= 255 else top
    else:
        deep = image.mode.startswith("I;16") or top > 255
        full = max(65535.0, top) if deep else 255.0
    gray = np.empty(values.shape, np.uint8)
    for band in bands:
        gray[band] = np.clip(_finite(values[band]) * (255 / full) + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(gray)


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    gray = values.astype(np.float64)
    gray[~np.isfinite(gray)] = 0  # depth and satellite images mark missing values so
    return gray
