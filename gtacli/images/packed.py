"""The base class of images that are not files: members of a shard, rows of a table, arrays."""

from abc import ABC, abstractmethod
from typing import BinaryIO


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
