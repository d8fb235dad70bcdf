"""Annotations of images, the same for all formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gtacli.data.objects import fill_outline
from gtacli.images.sizes import Box, Size


class Shape(Protocol):
    """A part of an object's pixels."""

    def draw(self, labels: NDArray[np.int32], number: int) -> None:
        """Give the pixels of the shape a number, in place; `labels` (h, w) is the whole image.

        Raises ValueError, KeyError or TypeError for what cannot be.
        """


@dataclass(frozen=True, slots=True)
class Outline:
    """A polygon: x and y of its corners in pixels."""

    corners: tuple[tuple[float, float], ...]

    def draw(self, labels: NDArray[np.int32], number: int) -> None:
        fill_outline(labels, np.array(self.corners, np.float64).reshape(-1, 2), number)


@dataclass(frozen=True, slots=True)
class AnnotatedObject:
    """An object of an image.

    Attributes:
        name: its class.
        box: None if it is that of the shapes, or has no area.
        shapes: its pixels; none if only the box is known.
        crowd: whether it stands for many objects, whose pixels have no label.
        plain: whether the shapes are but the box.
    """

    name: str
    box: Box | None
    shapes: tuple[Shape, ...] = ()
    crowd: bool = False
    plain: bool = False


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image with its objects.

    Attributes:
        names: paths by which the file may call it; the first that exists counts.
        size: (h, w) of the annotated pixels; None: not stated.
        objects: in the order in which they are drawn.
        tags: classes of the image as a whole.
        split: train, val or test, if the file says so.
    """

    names: tuple[str, ...]
    size: Size | None
    objects: tuple[AnnotatedObject, ...]
    tags: tuple[str, ...] = ()
    split: str | None = None


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """The images of a file.

    Attributes:
        path: the file.
        folder: where its images are looked for, and below.
        images: in the order of the file.
    """

    path: Path
    folder: Path
    images: tuple[AnnotatedImage, ...]
