"""Masks and crops of photographs that are drawn when they are asked for."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gta_coco.annotations import Shape
from gtacli.data.objects import GroundTruth
from gtacli.images.decode import ImageError, decode
from gtacli.images.find import read_file_state
from gtacli.images.packed import PackedImage, PackedMask
from gtacli.images.sizes import Box, Size


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph and its annotated pixels.

    Attributes:
        path: the file.
        stored: (h, w) of the annotated pixels.
        turn: EXIF's orientation by which they are turned, 1 to 8.
    """

    path: Path
    stored: Size
    turn: int

    @property
    def size(self) -> Size:
        """The (h, w) of the upright photograph."""
        return (self.stored[1], self.stored[0]) if self.turn >= 5 else self.stored


@dataclass(frozen=True, slots=True, eq=False)
class DrawnMask(PackedMask):
    """The mask of a photograph's objects.

    Attributes:
        photo: the photograph.
        shapes: numbers and shapes, in the order in which they are drawn.
        crop: box of the upright photograph to which the mask is cut.
    """

    photo: Photo
    shapes: tuple[tuple[int, Shape], ...]
    crop: Box | None = None

    def labels(self) -> NDArray[np.int32]:
        labels = draw(self.shapes, self.photo)
        if self.crop is None:
            return labels
        x0, y0, x1, y1 = self.crop
        return np.ascontiguousarray(labels[y0:y1, x0:x1])

    def stamp(self) -> int:
        return zlib.crc32(repr((self.photo.stored, self.shapes, self.crop)).encode())

    def state(self) -> str:
        return f"{read_file_state(self.photo.path)}\0{self.stamp()}"

    def __str__(self) -> str:
        return f"the objects of {self.photo.path}"


@dataclass(frozen=True, slots=True, eq=False)
class CroppedPhoto(PackedImage):
    """A part of an upright photograph.

    Attributes:
        photo: the photograph.
        crop: the part.
    """

    photo: Photo
    crop: Box

    def open(self) -> BinaryIO:
        part = decode(self.photo.path).crop(self.crop)
        header = f"P6 {part.width} {part.height} 255\n"
        return BytesIO(header.encode() + part.tobytes())

    def stamp(self) -> int:
        return zlib.crc32(repr((self.photo.path.stat().st_size, self.crop)).encode())

    def state(self) -> str:
        return f"{read_file_state(self.photo.path)}\0{self.crop}"

    def __str__(self) -> str:
        x0, y0, x1, y1 = self.crop
        return f"{self.photo.path}, [{x0}, {y0}, {x1}, {y1})"


def draw(shapes: tuple[tuple[int, Shape], ...], photo: Photo) -> NDArray[np.int32]:
    """Return the numbers of the shapes' pixels (h, w), upright. Raises ImageError."""
    labels = np.zeros(photo.stored, np.int32)
    try:
        for number, shape in shapes:
            shape.draw(labels, number)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else "a shape is incomplete"
        raise ImageError(f"the annotations of {photo.path} cannot be drawn: {reason}") from error
    turned = GroundTruth(labels).turned(photo.stored, photo.turn).labels
    assert turned is not None
    return turned
