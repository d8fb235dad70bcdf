"""The base classes of images and masks that are not files: members of a shard, rows, arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PackedImage(ABC):
    """An image that is not a file. Its `str` is its name in messages; it can be pickled."""

    @abstractmethod
    def open(self) -> BinaryIO:
        """Open the encoded image, in any format that Pillow reads."""

    @abstractmethod
    def stamp(self) -> int:
        """Return a number that changes with the image: its size, or a checksum of fixed sizes."""

    def state(self) -> str | None:
        """Return a string that changes with the image's place or bytes, without reading it.

        None if there is no such string. Raises OSError for an image that no longer exists.
        """
        return None


class PackedMask(PackedImage):
    """A mask of objects that is drawn when it is asked for, from outlines or run lengths.

    Raises GtaError where it cannot be drawn.
    """

    @abstractmethod
    def labels(self) -> NDArray[np.int32]:
        """Return the mask (h, w) of the upright image, as in `GroundTruth.labels`."""

    def open(self) -> BinaryIO:
        """Open the mask as a black and white PNG, for programs that show it."""
        from PIL import Image

        file = BytesIO()
        Image.fromarray((self.labels() > 0).astype("uint8") * 255).save(file, "PNG")
        file.seek(0)
        return file
