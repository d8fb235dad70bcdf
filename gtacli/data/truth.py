"""Ground-truth masks: a folder of black and white images, named like the images they belong to."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from gtacli.data.files import IMAGE_SUFFIXES
from gtacli.data.images import ImageError, decode
from gtacli.models.pixels import Size

_SUFFIXES = (".png", *sorted(IMAGE_SUFFIXES - {".png"}))


def read_truth(folder: Path, image: PurePath, size: Size) -> NDArray[np.bool_]:
    """The true object of an image: (h, w).

    Args:
        folder: of the masks.
        image: where the image lies below its own folder; the mask is there too, or in `folder`
            itself, under the same name but for the suffix.
        size: (h, w) of the image.

    Raises ImageError for a mask that is missing, unreadable, of another size, or that is not black
    and white (0 and 255, or 0 and 1).
    """
    path = _find(folder, image)
    grey = np.asarray(decode(path).convert("L"))
    if grey.shape != size:
        h, w = grey.shape
        raise ImageError(
            f"ground truth {path} is {w} x {h} pixels, its image is {size[1]} x {size[0]}"
        )
    if grey.max() <= 1:
        return grey > 0
    white = grey > 127
    # Object ids or a palette; the grey of smoothed edges is far less than the object.
    if np.count_nonzero((grey > 31) & (grey < 224)) > np.count_nonzero(white):
        raise ImageError(f"ground truth {path} is not black and white")
    return white


def _find(folder: Path, image: PurePath) -> Path:
    for stem in dict.fromkeys((image.with_suffix(""), PurePath(image.stem))):
        for suffix in _SUFFIXES:
            path = folder / f"{stem}{suffix}"
            if path.is_file():
                return path
    raise ImageError(f"no ground truth for {image} in {folder}")
