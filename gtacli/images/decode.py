"""Decode any image file to RGB pixels: EXIF orientation, CMYK, gray, 16 bit, palette, alpha.

Transparent images get a white background. A JPEG that lacks its end is read as far as it goes, as
viewers show it. Anything unreadable raises ImageError, which names the file.
"""

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from gtacli.errors import GtaError, UsageError, reason_of_library
from gtacli.images.codecs import add_decoder
from gtacli.images.depth import decode_deep, decode_tiff, is_shortened
from gtacli.images.packed import PackedImage
from gtacli.images.sizes import Size, cover_size, to_upright_rgb
from gtacli.runtime.regular import open_regular
from gtacli.runtime.repeated import RepeatedWarning

log = logging.getLogger(__name__)
_damaged: set[str] = set()
_damage = RepeatedWarning(log)

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MAX_PIXELS = 2 * 89_478_485
"""Most pixels of an image: as many as Pillow decodes by default; 0.7 GB in its memory."""
_END = b"\xff\xd9"  # of a JPEG; the decoder leaves gray what lacks before it
_MOST_MISSING = 0.5  # of the rows
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two of more than 4 GB
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # a Path has a single slash
_RAW = (
    *(".cr2", ".cr3", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".raf", ".orf", ".rw2"),
    *(".pef", ".srw", ".x3f", ".3fr", ".iiq"),
)
_NOT_PIXELS = {
    **dict.fromkeys(_RAW, "a camera's raw file; export it as JPEG or TIFF"),
    **dict.fromkeys((".pdf", ".svg", ".ai"), "a drawing; export it as PNG"),
    **dict.fromkeys(
        (".mp4", ".mov", ".avi", ".mkv", ".webm"), "a video; save its frames as images"
    ),
    ".dcm": "a DICOM file; export it as PNG or TIFF",
}
"""What files are that people give for images, by their suffix."""
_NOT_DECODED = ("EPS", "WMF")  # programs, which Pillow gives to Ghostscript or to Windows


class ImageError(GtaError):
    """A file that is not a readable image."""


def warn_of_damage(text: str) -> None:
    """Log a line about a damaged image once, however often it is read; of many, count the rest."""
    if text not in _damaged:
        _damaged.add(text)
        _damage.add(text)


def summarize_damage() -> None:
    """Log how many damaged images had no line of their own since the last summary."""
    _damage.summarize()


def decode(
    path: Path | PackedImage,
    cover: Size | None = None,
    tell: Callable[[str], object] = warn_of_damage,
) -> Image.Image:
    """Decode an image as upright RGB.

    Args:
        path: the file, or the image in a container.
        cover: (height, width): a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which costs
            little, but never below twice `cover`, so that the resize after it still averages.
        tell: is called with a line about an image that is read although it is damaged.

    Raises ImageError, and UsageError for environment variables that cannot be.
    """
    try:
        try:
            return _decode(path, cover, tell)
        except UnidentifiedImageError:
            with open_source(path) as file:  # of more bands than Pillow knows?
                if file.read(4) not in _TIFF:
                    raise
                return decode_tiff(file, max_pixels(), str(path))
    except UsageError:
        raise
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise _image_error(path, error) from error


def _decode(
    path: Path | PackedImage, cover: Size | None, tell: Callable[[str], object]
) -> Image.Image:
    with open_image(path) as image:
        if is_shortened(image):
            with open_source(path) as file:
                return to_upright_rgb(decode_deep(image, file, str(path)), str(path))
        _draft(image, cover)
        try:
            image.load()
        except OSError as error:
            if image.format != "JPEG" or "truncated" not in str(error):
                raise
            return _complete(path, cover, error, tell)
        return to_upright_rgb(image, str(path))


def _draft(image: Image.Image, cover: Size | None) -> None:
    if cover is not None and image.format == "JPEG":
        side = 2 * max(cover)  # a square: EXIF may still rotate it
        image.draft(image.mode, (side, side))


def _complete(
    path: Path | PackedImage, cover: Size | None, error: OSError, tell: Callable[[str], object]
) -> Image.Image:
    """Decode a JPEG that lacks its end. Raises the error of the decoder if most of it lacks."""
    with open_image(EncodedImage(str(path), read_bytes(path) + _END)) as image:
        _draft(image, cover)
        image.load()
        rows = np.asarray(image)
        same = (rows == rows[-1]).all(axis=tuple(range(1, rows.ndim)))
        missing = 1 - (np.flatnonzero(~same).max(initial=-1) + 1) / len(rows)
        if missing > _MOST_MISSING:
            raise error
        tell(f"{path} lacks its last bytes: it is read as far as it goes")
        return to_upright_rgb(image, str(path))


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
    height, width, orientation = read_header(path)
    return (width, height) if orientation >= 5 else (height, width)


def read_header(path: Path | PackedImage) -> tuple[int, int, int]:
    """Return the stored height and width, and EXIF's orientation (1 to 8). Raises ImageError."""
    try:
        with open_image(path) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return image.height, image.width, orientation if orientation in range(1, 9) else 1
    except UsageError:
        raise
    except UnidentifiedImageError:
        image = decode(path)  # of many bands, or it raises
        return image.height, image.width, 1
    except Exception as error:
        raise _image_error(path, error) from error


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
    _silence_libraries()
    with warnings.catch_warnings(), open_source(path) as file:
        warnings.simplefilter("ignore")
        try:
            opened = _open(file)
        except Image.DecompressionBombError as error:
            raise _too_large(limit) from error
        with opened as image:
            if image.width * image.height > limit:
                raise _too_large(limit)
            if image.format in _NOT_DECODED:
                raise ValueError(f"{image.format} is not read: it is a program, not pixels")
            if Path(str(path)).suffix.lower() in _RAW:  # TIFFs, whose first picture is a thumbnail
                raise ValueError("of a raw file only the thumbnail can be read")
            yield image


@cache
def _silence_libraries() -> None:
    """Keep Pillow, tifffile and libtiff from writing of files that they do not name."""
    for library in ("PIL", "tifffile"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    import ctypes

    from PIL import _imaging  # the library that is linked to libtiff

    with suppress(AttributeError, OSError):  # built without it, or statically
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _open(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not add_decoder(file):
            raise
        return Image.open(file)


def is_readable(path: Path) -> bool:
    """Return whether a file begins as an image does."""
    try:
        with open_image(path):
            return True
    except Exception:  # whatever a file that is none makes Pillow raise
        return False


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
        if _ADDRESS.match(str(path)):
            return ImageError(f"{path} is an address: images are read from files, download it")
        return ImageError(f"no such image: {path}")
    reason = reason_of_library(error)
    if named := _NOT_PIXELS.get(Path(str(path)).suffix.lower()):
        reason = named
    elif isinstance(error, UnidentifiedImageError):
        reason = "not an image"
    elif isinstance(error, OSError) and error.strerror:  # str() repeats the file's name
        reason = error.strerror
    return ImageError(f"cannot read image {path}: {reason}")


def load(
    path: Path | PackedImage,
    cover: Size,
    interpolation: str = "bicubic",
    tell: Callable[[str], object] = warn_of_damage,
) -> NDArray[np.uint8]:
    """Decode an image and shrink it until it just covers `cover`: uint8 (h, w, 3).

    A smaller image keeps its size: the crop enlarges it, so that it is resampled only once.

    Args:
        tell: see `decode`.
    """
    image = decode(path, cover, tell)
    height, width = cover_size(image.height, image.width, cover)
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), RESAMPLING[interpolation])
    return np.array(image, dtype=np.uint8)
