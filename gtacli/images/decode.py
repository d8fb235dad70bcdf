"""From a file to RGB pixels, whatever it is: EXIF orientation, CMYK, grey, 16 bit, palette, alpha.

Transparent images are laid on white. Anything unreadable raises ImageError, which names the file.
"""

import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from gtacli.errors import GtaError
from gtacli.images.packed import Packed
from gtacli.images.sizes import Size, cover_size, upright_rgb

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class ImageError(GtaError):
    """A file that is not a readable image."""


def decode(path: Path | Packed, cover: Size | None = None) -> Image.Image:
    """The image at `path`, or packed, as upright RGB.

    With `cover` (height, width) a JPEG may be decoded at 1/2, 1/4 or 1/8 (libjpeg does that almost
    for nothing), yet never below twice that size, so that the resize after it still averages.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF, odd palettes: pixels are what counts
            with Image.open(opened(path)) as image:
                if cover is not None and image.format == "JPEG":
                    side = 2 * max(cover)  # a square: the photograph may yet be turned
                    image.draft(image.mode, (side, side))
                image.load()
                return upright_rgb(image)
    except FileNotFoundError as error:
        raise ImageError(f"no such image: {path}") from error
    except Exception as error:  # a broken file makes Pillow raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not an image"
        elif isinstance(error, OSError) and error.strerror:  # str() would name the file once more
            reason = error.strerror
        raise ImageError(f"cannot read image {path}: {reason}") from error


@dataclass(frozen=True, slots=True)
class Encoded(Packed):
    """An image file's bytes, read already."""

    name: str
    data: bytes

    def open(self) -> BinaryIO:
        return BytesIO(self.data)

    def stamp(self) -> int:
        return len(self.data)

    def __str__(self) -> str:
        return self.name


def encoded(path: Path | Packed) -> bytes:
    """The bytes of the image file itself. Raises ImageError where they cannot be read."""
    try:
        with path.open("rb") if isinstance(path, Path) else path.open() as file:
            return file.read()
    except FileNotFoundError as error:
        raise ImageError(f"no such image: {path}") from error
    except Exception as error:  # a container raises what it likes
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ImageError(f"cannot read image {path}: {reason}") from error


def upright_size(path: Path | Packed) -> Size:
    """(h, w) of what `decode` gives, from the file's header."""
    try:
        with Image.open(opened(path)) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except Exception as error:
        raise ImageError(f"cannot read image {path}: {error}") from error
    return (width, height) if turned else (height, width)


def opened(path: Path | Packed) -> Path | BinaryIO:
    """What Pillow opens."""
    return path.open() if isinstance(path, Packed) else path


def load(path: Path | Packed, cover: Size, interpolation: str = "bicubic") -> NDArray[np.uint8]:
    """Decoded and reduced to just cover `cover`: uint8 (h, w, 3).

    A smaller image stays as it is: enlarging belongs to the crop, which then resamples once.
    """
    image = decode(path, cover)
    height, width = cover_size(image.height, image.width, cover)
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), RESAMPLING[interpolation])
    return np.array(image, dtype=np.uint8)
