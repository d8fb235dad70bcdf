"""Decode any image file to RGB pixels: EXIF orientation, CMYK, gray, 16 bit, palette, alpha.

Transparent images get a white background. Anything unreadable raises ImageError, which names the
file.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from gtacli.errors import GtaError, UsageError
from gtacli.images.packed import PackedImage
from gtacli.images.sizes import Size, cover_size, to_upright_rgb
from gtacli.runtime.regular import open_regular

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MAX_PIXELS = 2 * 89_478_485
"""Most pixels of an image: as many as Pillow decodes by default; 0.7 GB in its memory."""
_NOT_DECODED = ("EPS", "WMF")  # programs, which Pillow gives to Ghostscript or to Windows


class ImageError(GtaError):
    """A file that is not a readable image."""


def decode(path: Path | PackedImage, cover: Size | None = None) -> Image.Image:
    """Decode an image as upright RGB. Raises ImageError.

    With `cover` (height, width) a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which costs
    little, but never below twice `cover`, so that the resize after it still averages.
    """
    try:
        with open_image(path) as image:
            if cover is not None and image.format == "JPEG":
                side = 2 * max(cover)  # a square: EXIF may still rotate it
                image.draft(image.mode, (side, side))
            image.load()
            return to_upright_rgb(image)
    except UsageError:  # of the limit
        raise
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise _image_error(path, error) from error


@dataclass(frozen=True, slots=True)
class EncodedImage(PackedImage):
    """An image file's bytes, already read."""

    name: str
    data: bytes

    def open(self) -> BinaryIO:
        return BytesIO(self.data)

    def stamp(self) -> int:
        return len(self.data)

    def __str__(self) -> str:
        return self.name


def read_bytes(path: Path | PackedImage) -> bytes:
    """Return the encoded bytes of an image. Raises ImageError if they cannot be read."""
    try:
        with open_source(path) as file:
            return file.read()
    except Exception as error:  # a container may raise anything
        raise _image_error(path, error) from error


def read_upright_size(path: Path | PackedImage) -> Size:
    """Return the (h, w) of what `decode` returns, from the header. Raises ImageError."""
    try:
        with open_image(path) as image:
            width, height = image.size
            rotated = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except UsageError:
        raise
    except Exception as error:
        raise _image_error(path, error) from error
    return (width, height) if rotated else (height, width)


def open_source(path: Path | PackedImage) -> BinaryIO:
    """Open the encoded image. Raises OSError, or what the image's container raises."""
    return path.open() if isinstance(path, PackedImage) else open_regular(path)


@contextmanager
def open_image(path: Path | PackedImage) -> Iterator[Image.Image]:
    """Open an image of which only the header has been read: the one place that calls Pillow.

    What Pillow and its libraries would write to stderr meanwhile does not name the file. Pillow's
    warnings (odd EXIF or palettes) do not matter, and libtiff's errors make Pillow raise its own.

    Raises OSError, ValueError for more pixels than `max_pixels`, and almost anything for a broken
    file.
    """
    limit = max_pixels()
    _silence_libtiff()
    with warnings.catch_warnings(), open_source(path) as file:
        warnings.simplefilter("ignore")
        try:
            opened = Image.open(file)
        except Image.DecompressionBombError as error:
            raise _too_large(limit) from error
        with opened as image:
            if image.width * image.height > limit:
                raise _too_large(limit)
            if image.format in _NOT_DECODED:
                raise ValueError(f"{image.format} is not read: it is a program, not pixels")
            yield image


@cache
def _silence_libtiff() -> None:
    """Take libtiff's error handler, which writes to stderr, where Pillow exposes it."""
    import ctypes

    from PIL import _imaging  # the library that is linked to libtiff

    with suppress(AttributeError, OSError):  # built without it, or statically
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def max_pixels() -> int:
    """Return the most pixels that an image may have: $GTA_MAX_PIXELS or `MAX_PIXELS`.

    A larger limit is set in Pillow too, which has its own. Raises UsageError.
    """
    text = os.environ.get("GTA_MAX_PIXELS")
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or not int(text):
        raise UsageError(f"must be a number of pixels, got '{text}'", source="GTA_MAX_PIXELS")
    limit = int(text)
    if Image.MAX_IMAGE_PIXELS is not None and limit > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = (limit + 1) // 2  # it refuses more than twice as many
    return limit


def _too_large(limit: int) -> ValueError:
    return ValueError(
        f"it has more than {limit:,} pixels; the environment variable GTA_MAX_PIXELS sets the limit"
    )


def _image_error(path: Path | PackedImage, error: Exception) -> ImageError:
    if isinstance(error, FileNotFoundError):
        return ImageError(f"no such image: {path}")
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image"
    elif isinstance(error, OSError) and error.strerror:  # str() repeats the file's name
        reason = error.strerror
    return ImageError(f"cannot read image {path}: {reason}")


def load(
    path: Path | PackedImage, cover: Size, interpolation: str = "bicubic"
) -> NDArray[np.uint8]:
    """Decode an image and shrink it until it just covers `cover`: uint8 (h, w, 3).

    A smaller image keeps its size: the crop enlarges it, so that it is resampled only once.
    """
    image = decode(path, cover)
    height, width = cover_size(image.height, image.width, cover)
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), RESAMPLING[interpolation])
    return np.array(image, dtype=np.uint8)
