"""Image sizes, and any PIL image as upright RGB: EXIF orientation, CMYK, 16 bit, alpha."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageOps

from gtacli.images.depth import to_eight_bits

Size = tuple[int, int]
"""(height, width)."""
Box = tuple[int, int, int, int]
"""[x0, y0, x1, y1) in pixels."""
MOST_ENLARGED = 1 << 26
"""Pixels of an enlarged image, 0.2 GB, above which the ends that a crop removes are cut off first:
only an image many times as long as it is wide has more."""
_MARGIN = 16  # pixels beside a crop that its resampling may read
LARGEST_SIDE = 1 << 20
"""Bound of coordinates, in pixels; the formats of images have 65,535 or fewer."""


def resize_target(image_size: Size, crop_pct: float) -> Size:
    """Return the (h, w) that evaluation resizes an image to cover before its crop (timm's rule)."""
    h, w = image_size
    return max(h, math.floor(h / crop_pct)), max(w, math.floor(w / crop_pct))


def cover_size(height: int, width: int, cover: Size, *, enlarge: bool = False) -> Size:
    """Return the size of the same aspect ratio that just covers `cover`.

    A smaller image keeps its size, unless `enlarge`.
    """
    scale = max(cover[0] / height, cover[1] / width)
    if scale >= 1 and not enlarge:
        return height, width
    return max(cover[0], round(height * scale)), max(cover[1], round(width * scale))


def ends_to_cut(size: Size, cover: Size) -> tuple[int, int]:
    """Return the rows and columns to cut off both ends of an image that is to cover `cover`.

    None, unless the image is so narrow that it would fill the memory when enlarged.
    """
    large = cover_size(*size, cover, enlarge=True)
    if math.prod(large) <= max(MOST_ENLARGED, math.prod(size)):
        return 0, 0
    scale = max(c / s for c, s in zip(cover, size, strict=True))
    # The same number at both ends, so that the center stays.
    top, left = (
        max(0, (s - math.ceil(c / scale)) // 2 - _MARGIN) for c, s in zip(cover, size, strict=True)
    )
    return top, left


def check_box(box: Sequence[float], size: Size | None = None) -> None:
    """Raise ValueError unless a box [x0, y0, x1, y1) has an area in its image.

    Args:
        size: (h, w) of the image; None: any, in which the box lies but for a pixel.
    """
    h, w = size or (LARGEST_SIDE, LARGEST_SIDE)
    x0, y0, x1, y1 = box
    shown = "[" + ", ".join(f"{number:.6g}" for number in box) + "]"
    if size is None and not (x0 >= -1 and y0 >= -1 and x1 <= w + 1 and y1 <= h + 1):  # also NaN
        raise ValueError(f"the box {shown} (x0, y0, x1, y1) is outside of any image")
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


def clip_boxes(boxes: Iterable[Box], size: Size) -> tuple[Box, ...]:
    """Return the parts of boxes within an image of (h, w), without those that have none."""
    height, width = size
    clipped = (
        (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)) for x0, y0, x1, y1 in boxes
    )
    return tuple(box for box in clipped if box[0] < box[2] and box[1] < box[3])


def turn_box(box: Box, stored: Size, orientation: int) -> Box:
    """Return a box of the stored pixels where the upright image has it.

    Args:
        stored: (h, w) of the stored pixels.
        orientation: EXIF's, 1 to 8: the position of the stored first row and column (CIPA DC-008).
    """
    (x0, y0, x1, y1), (height, width) = box, stored
    if orientation in (2, 3, 7, 8):  # the stored rows run leftwards, or upwards once turned
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    return (y0, x0, y1, x1) if orientation >= 5 else (x0, y0, x1, y1)


def to_upright_rgb(image: Image.Image, name: str = "an image") -> Image.Image:
    """Rotate an image as its EXIF says, put it on white, and convert it to 8-bit RGB."""
    return _rgb(_upright(image), name)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF in a readable image
        return image


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would clip all above 255 to white.
        image = Image.fromarray(to_eight_bits(np.asarray(image), name))
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")
