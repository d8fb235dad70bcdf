"""Images for training as tensors: Pillow decodes them, torch resizes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli.images.decode import RESAMPLING, decode, load, warn_of_damage
from gtacli.images.packed import PackedImage
from gtacli.images.sizes import Size, cover_size

_FAST = ("bilinear", "bicubic")
_TALL = 1.9
"""Height by width. From 2 on Pillow 13 resizes along the height first, torch always along the
width; as values are clipped in between, noise comes out up to 27 levels apart."""


def load_for_training(
    path: Path | PackedImage,
    cover: Size,
    interpolation: str = "bicubic",
    tell: Callable[[str], object] = warn_of_damage,
) -> Tensor:
    """Decode an image and shrink it until it just covers `cover`, as `decode.load` does.

    torch's resize takes a fraction of the time of Pillow's, which results are evaluated with. One
    in a thousand of its values is another one, by a level (of 255), rarely two. Pillow resizes tall
    images.

    Args:
        tell: see `decode`.

    Returns: uint8 (3, h, w), in the memory layout (h, w, channel), in which torch resizes fastest.

    Raises ImageError.
    """
    if interpolation not in _FAST:
        return _as_tensor(load(path, cover, interpolation, tell))
    image = decode(path, cover, tell)
    height, width = image.height, image.width
    size = cover_size(height, width, cover)
    if size != (height, width) and height > _TALL * width:
        return _as_tensor(np.array(image.resize(size[::-1], RESAMPLING[interpolation])))
    pixels = _as_tensor(np.array(image))
    if size == (height, width):
        return pixels
    return F.resize(pixels, list(size), InterpolationMode(interpolation), antialias=True)


def _as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)
