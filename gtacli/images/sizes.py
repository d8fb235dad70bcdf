"""Any image as upright RGB: EXIF orientation, CMYK, grey, 16 bit, palette, alpha; its size."""

import numpy as np
from PIL import Image, ImageOps

Size = tuple[int, int]
"""(height, width)."""
Box = tuple[int, int, int, int]
"""[x0, y0, x1, y1) in pixels."""


def cover_size(height: int, width: int, cover: Size, *, enlarge: bool = False) -> Size:
    """The size of the same aspect ratio that just covers `cover`; a smaller image's own size."""
    scale = max(cover[0] / height, cover[1] / width)
    if scale >= 1 and not enlarge:
        return height, width
    return max(cover[0], round(height * scale)), max(cover[1], round(width * scale))


def own_aspect(image: Size, like: Size, patch: Size) -> Size:
    """The size nearest to `image`'s aspect ratio that has about as many patches as `like`, never
    more than an eighth more; whole patches, at least one a side.

    All arguments and the result are (height, width) in pixels.
    """
    patches = (like[0] // patch[0]) * (like[1] // patch[1])
    # Patches need not be square: the aspect that counts is that of the grid.
    aspect = (image[0] / patch[0]) / (image[1] / patch[1])
    rows = max(1, min(patches, round((patches * aspect) ** 0.5)))
    columns = max(1, min(patches, round((patches / aspect) ** 0.5)))
    while rows * columns > patches * 9 / 8 and max(rows, columns) > 1:
        rows, columns = (rows - 1, columns) if rows >= columns else (rows, columns - 1)
    return rows * patch[0], columns * patch[1]


def upright_rgb(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF says, transparency laid on white, 16 bit brought to 8."""
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
    """Grey of 16 bit, 32 bit or float. Pillow would clip all above 255 to white."""
    grey = np.asarray(image).astype(np.float64)
    grey[~np.isfinite(grey)] = 0  # how depth and satellite images mark a place without a value
    top = grey.max(initial=0.0)
    if image.mode == "F":
        full = 1.0 if top <= 1 else 255.0 if top <= 255 else top
    else:
        deep = image.mode.startswith("I;16") or top > 255
        full = max(65535.0, top) if deep else 255.0
    return Image.fromarray(np.clip(grey * (255 / full) + 0.5, 0, 255).astype(np.uint8))
