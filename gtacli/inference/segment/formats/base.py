"""The contract of a format of annotations, and what it gets of each image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gtacli.images.sizes import Size
from gtacli.inference.outputs import result_path, write_result
from gtacli.runtime.escapes import as_utf8

Records = Callable[[], Iterable[Any]]
"""Yields what `add` has returned for each image, in order; may be called again."""


class FoundObject(NamedTuple):
    """An object of an image.

    Attributes:
        mask: (h, w), not empty.
        box: [x0, y0, x1, y1) around it.
        confidence: 0 to 1.
    """

    mask: NDArray[np.bool_]
    box: list[int]
    confidence: float


class AnnotatedImage(NamedTuple):
    """An image and its objects, the main one first; none if nothing was found.

    Attributes:
        below: path of the image below the folder that was given.
        stem: path of its results below their folder, see `place_images`.
        size: (h, w) in pixels.
    """

    below: PurePath
    stem: str
    size: Size
    objects: list[FoundObject]


@dataclass(frozen=True)
class AnnotationFormat(ABC):
    """Writes annotations: files for each image, or one file of all images.

    Attributes:
        folder: for the files.
        category: name of the objects' category.
        suffix: of an image's file; None where all images are in one file.
    """

    folder: Path
    category: str = "object"
    suffix: ClassVar[str | None] = None

    @abstractmethod
    def add(self, image: AnnotatedImage) -> tuple[list[str], Any]:
        """Write an image's files; usable in any thread.

        Returns:
            The files, and a record in JSON of what `finish` needs of the image.

        Raises ImageError and RunError as `write_result` does.
        """

    @abstractmethod
    def finish(self, records: Records) -> None:
        """Write the files that are about all images. Raises RunError."""

    def _write(self, part: str, stem: str, suffix: str, write: Callable[[Path], object]) -> str:
        """Write a file of an image into a subfolder."""
        return write_result(result_path(self.folder / part, stem, suffix), write)


def as_text(path: PurePath) -> str:
    """Return a path with slashes, as UTF-8 can hold it."""
    return as_utf8(path.as_posix())
