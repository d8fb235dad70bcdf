"""Images that are not files of their own: members of a shard, rows of a table, arrays."""

from abc import ABC, abstractmethod
from typing import BinaryIO


class Packed(ABC):
    """An image that is no file of its own. Its `str` is its name in messages; it can be pickled."""

    @abstractmethod
    def open(self) -> BinaryIO:
        """The encoded image, in any format that Pillow reads."""

    @abstractmethod
    def stamp(self) -> int:
        """What tells a changed image from the old one: its size in bytes, or a checksum where all
        sizes are alike."""

    def state(self) -> str | None:
        """Where the image lies and what says, without reading it, that its bytes are still those
        of before; None: nothing does. Raises OSError where it is gone."""
        return None
