"""Images by their files or packed, with the paths of millions of files kept as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

from gtacli.images.packed import PackedImage

Source = str | Path | PackedImage
"""An image: the path of its file, or packed."""


def to_file(source: Source) -> Path | PackedImage:
    """Return what can be decoded."""
    return Path(source) if isinstance(source, str) else source


class ImageList(Sequence[Path | PackedImage]):
    """A list of images whose paths become objects when they are asked for.

    A million of these would take five seconds and hundreds of megabytes.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = [*sources]

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Path | PackedImage: ...

    @overload
    def __getitem__(self, index: slice) -> ImageList: ...

    def __getitem__(self, index: int | slice) -> Path | PackedImage | ImageList:
        if isinstance(index, slice):
            return ImageList(self._sources[index])
        return to_file(self._sources[index])
