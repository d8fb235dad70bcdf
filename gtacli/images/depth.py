"""More than 8 bits a sample, and more than four bands: what Pillow shortens or refuses.

Pillow keeps the upper byte of a color image of 16 bits, so that a camera's 12 bits become 4, and
opens no more than four bands. Such files are decoded in two passes (PNG) or by tifffile (TIFF).

A file of 16 bits seldom says how many of them are in use. Unless a range is set, an image's own
maximum tells: the range ends at 8, 10, 12, 14 or 16 bits.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gtacli.errors import UsageError

log = logging.getLogger(__name__)

BITS = (8, 10, 12, 14, 16)
"""Depths of cameras, scanners and X-ray detectors."""
_MOST_BYTES = 4  # for each of the most pixels of an image: 0.7 GB by default
_VALUES_AT_ONCE = 1 << 22
_told: set[float] = set()


@contextmanager
def reading_as(bands: str | None, value_range: str | None) -> Iterator[None]:
    """Let this process and its workers read deep images so inside; None leaves what is set.

    Args:
        bands: three band numbers from 1, such as "4,3,2", or one for gray.
        value_range: "HIGH" or "LOW:HIGH", the values that become black and white.

    Raises UsageError (options "bands" and "value_range").
    """
    before = dict(os.environ)
    try:
        for name, value in (("bands", bands), ("value_range", value_range)):
            if value is not None:
                {"bands": read_bands, "value_range": read_value_range}[name](value, option=name)
                os.environ[f"GTA_{name.upper()}"] = value  # the workers' processes inherit it
        yield
    finally:
        for name in ("GTA_BANDS", "GTA_VALUE_RANGE"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


@contextmanager
def reading_by_default(bands: str | None, value_range: str | None) -> Iterator[None]:
    """Like `reading_as`, where neither an option nor the environment has set it already."""
    with reading_as(
        None if "GTA_BANDS" in os.environ else bands,
        None if "GTA_VALUE_RANGE" in os.environ else value_range,
    ):
        yield


def reading() -> str:
    """Return what is set, at most 64 bytes: part of the key of all that is cached of images."""
    text = f"{os.environ.get('GTA_BANDS', '')} {os.environ.get('GTA_VALUE_RANGE', '')}".strip()
    return text if len(text) <= 64 else hashlib.sha256(text.encode()).hexdigest()


def read_bands(text: str, **where: str) -> tuple[int, ...]:
    """Return the numbers of bands, from 0, in "4,3,2". Raises UsageError."""
    words = [word.strip() for word in text.split(",")]
    if len(words) not in (1, 3) or not all(w.isdecimal() and int(w) >= 1 for w in words):
        raise UsageError(f"must be one or three band numbers from 1, got '{text}'", **where)
    return tuple(int(word) - 1 for word in words)


def read_value_range(text: str, **where: str) -> tuple[float, float]:
    """Return (low, high) of "HIGH" or "LOW:HIGH". Raises UsageError."""
    low, _, high = text.rpartition(":")
    try:
        found = float(low or 0), float(high)
    except ValueError:
        found = math.nan, math.nan
    if not -math.inf < found[0] < found[1] < math.inf:
        raise UsageError(f"must be HIGH, or LOW:HIGH with LOW below HIGH, got '{text}'", **where)
    return found


def is_shortened(image: Image.Image) -> bool:
    """Return whether Pillow would drop bits of an opened image's colors, or read other bands."""
    if image.format == "TIFF" and os.environ.get("GTA_BANDS"):
        return True
    tiles = getattr(image, "tile", [])  # of files only; each has the layout of its samples
    return image.format in ("PNG", "TIFF") and any(";16" in str(tile[3]) for tile in tiles[:1])


def decode_deep(image: Image.Image, file: BinaryIO, name: str) -> Image.Image:
    """Decode an opened image that Pillow would shorten, as 8-bit RGB or RGBA, not yet upright.

    A TIFF whose compression tifffile has no codec for is left to Pillow.
    """
    file.seek(0)
    if image.format == "PNG":
        return _to_image(_decode_png(image, file), name, image)
    try:
        return decode_tiff(file, image.width * image.height, name, image)
    except ValueError as error:
        if "imagecodecs" not in str(error) or os.environ.get("GTA_BANDS"):
            raise
        log.warning("%s: only the upper 8 of its 16 bits are read; imagecodecs reads all", name)
        return image


def decode_tiff(
    file: BinaryIO, limit: int, name: str, opened: Image.Image | None = None
) -> Image.Image:
    """Decode the first page of a TIFF of any depth and number of bands, as 8 bits.

    Args:
        limit: most pixels that are decoded.
        opened: by Pillow, for its orientation.

    Raises ValueError for more pixels, and for bands of which none are chosen; almost anything for a
    broken file.
    """
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        height, width, bands = page.imagelength, page.imagewidth, page.samplesperpixel
        if min(height, width, bands) < 1:
            raise ValueError("it has no pixels")
        if height * width > limit:
            raise ValueError(f"it has more than {limit:,} pixels")
        chosen = _choose_bands(bands)
        # A file that Pillow does not open may say any number of bands.
        if page.nbytes > (_MOST_BYTES if opened is None else 64) * limit:
            raise ValueError(f"{bands} bands of {height} x {width} pixels are too many")
        values = page.asarray()
    if values.size != height * width * bands:
        raise ValueError("it is no picture of one layer")
    if bands > 1 and values.shape[0] == bands:  # one plane after the other
        values = np.moveaxis(values, 0, -1)
    return _to_image(values.reshape(height, width, bands)[..., list(chosen)], name, opened)


def _choose_bands(count: int) -> tuple[int, ...]:
    text = os.environ.get("GTA_BANDS")
    if text:
        chosen = read_bands(text, source="GTA_BANDS")
        if max(chosen) >= count:
            raise ValueError(f"it has {count} bands, and `bands` asks for {max(chosen) + 1}")
        return chosen
    if count > 4:
        raise ValueError(f"it has {count} bands; name three with `bands`, such as 4,3,2")
    return tuple(range(count if count < 3 else 3))


def _decode_png(image: Image.Image, file: BinaryIO) -> NDArray[np.integer[Any]]:
    """Decode all 16 bits of a PNG by Pillow, which keeps one byte of each sample at a time.

    torchvision's decoder reads both, but a damaged file ends its process.
    """
    raw = str(getattr(image, "tile")[0][3])  # noqa: B009 (of files only)
    if raw.startswith("LA"):  # two samples of two bytes are as long as a pixel of RGBA
        upper_lower = _decode_as(file, "RGBA")
        return upper_lower[..., ::2].astype(np.uint16) << 8 | upper_lower[..., 1::2]
    if raw.startswith("I"):
        return np.asarray(image)[..., None]
    upper, lower = (_decode_as(file, raw.replace("16B", order)) for order in ("16B", "16L"))
    return upper.astype(np.uint16) << 8 | lower


def _decode_as(file: BinaryIO, raw: str) -> NDArray[np.uint8]:
    """Decode a PNG whose tiles are said to be of another layout."""
    file.seek(0)
    with Image.open(file) as image:
        png: Any = image
        png.tile = [(*tile[:3], raw) for tile in png.tile]
        return np.asarray(image)


def _to_image(values: NDArray[Any], name: str, opened: Image.Image | None) -> Image.Image:
    """Return (h, w, bands) as an 8-bit image with the orientation of the opened one."""
    alpha = None
    if opened is not None and opened.mode in ("RGBA", "LA") and values.shape[-1] in (2, 4):
        values, alpha = values[..., :-1], (values[..., -1] >> 8).astype(np.uint8)
    colors = to_eight_bits(values, name)
    if colors.shape[-1] == 1:
        colors = colors.repeat(3, -1)
    image = Image.fromarray(colors[..., :3])
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    if opened is not None:
        image.info["exif"] = opened.getexif().tobytes()
    return image


def to_eight_bits(values: NDArray[Any], name: str = "an image") -> NDArray[np.uint8]:
    """Scale samples of any depth to 0 to 255, all bands alike, in parts of little memory.

    The range is what is set, else: 8 bits as they are; 16 bits by the depth in use; floats to 1,
    255 or their maximum, whichever is the first to hold them all.
    """
    if values.dtype == np.uint8:
        return values
    text = os.environ.get("GTA_VALUE_RANGE")
    if text:
        low, high = read_value_range(text, source="GTA_VALUE_RANGE")
    else:
        low, high = 0.0, _find_high(values, name)
    scaled = np.empty(values.shape, np.uint8)
    for part in _parts(values):
        unit = (_finite(values[part]) - low) * (255 / (high - low))
        scaled[part] = np.clip(unit + 0.5, 0, 255).astype(np.uint8)
    return scaled


def _find_high(values: NDArray[Any], name: str) -> float:
    top = max((_finite(values[part]).max(initial=0.0) for part in _parts(values)), default=0.0)
    if values.dtype.kind == "f":
        return 1.0 if top <= 1 else 255.0 if top <= 255 else float(top)
    high = next((float(2**b - 1) for b in BITS if top < 2**b), float(top))
    if high < 65535 and high not in _told:
        _told.add(high)
        log.warning(
            "%s has 16 bits and uses values to %d: 0 to %d become black to white, as in other "
            "images of these bits (`value_range` sets one range for all)",
            name,
            top,
            high,
        )
    return high


def _parts(values: NDArray[Any]) -> Iterator[slice]:
    rows = max(1, _VALUES_AT_ONCE // max(1, values[:1].size))  # float64 of all would be large
    return (slice(start, start + rows) for start in range(0, len(values), rows))


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    numbers = values.astype(np.float64)
    numbers[~np.isfinite(numbers)] = 0  # depth and satellite images mark missing values so
    return numbers
