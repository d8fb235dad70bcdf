"""Geometry: what part of an image the network sees, at its input size, as uint8 (3, h, w).

The field's recipe. Images are brought to a shorter side of 256/224 of the input when they are
loaded; training takes a random resized crop of that (Szegedy et al., 2014; torchvision's draw) and
a random flip, evaluation resizes to input / crop_pct and cuts the centre (timm's rule). Normalising
is not done here but on the device, by each model's own mean and std.

A draw (`Crop`) is kept apart from its application, and every view says what part of its image it
shows (`RelativeCrop`), so that a map can travel with its image.
"""

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli.images.preprocessing import eval_box, eval_view, resized_size
from gtacli.images.sizes import Size

LOAD_RATIO = 256 / 224
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10


class RelativeCrop(NamedTuple):
    """What part of its image a view shows: a box as shares of the sides, and whether mirrored."""

    x0: float
    y0: float
    x1: float
    y1: float
    flip: bool = False


class Transform(Protocol):
    """uint8 (3, H, W) to uint8 (3, *image_size); only random ones use `rng`."""

    @property
    def image_size(self) -> Size:
        """(height, width) of what it gives."""
        ...

    @property
    def load_size(self) -> Size:
        """(height, width) that an image must cover when it is loaded."""
        ...

    def make_view(
        self, image: Tensor, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, RelativeCrop]:
        """The view, and what it shows."""
        ...

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> Tensor: ...


class Crop(NamedTuple):
    """One draw: a box in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool

    def relative(self, height: int, width: int) -> RelativeCrop:
        """The same of a `height` x `width` image."""
        right, bottom = self.left + self.width, self.top + self.height
        box = self.left / width, self.top / height, right / width, bottom / height
        return RelativeCrop(*box, self.flip)


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop and flip; `scale` is the crop's share of the image's area."""

    image_size: Size
    scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    interpolation: str = "bicubic"
    load_ratio: float = LOAD_RATIO
    """Of the side of an image as it is loaded to the input's. Where even the smallest crop is not
    to be enlarged: 1 / sqrt(scale[0])."""

    @property
    def load_size(self) -> Size:
        side = round(max(self.image_size) * self.load_ratio)
        return side, side

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Crop:
        """The crop of a `height` x `width` image."""
        flip = self.flip and bool(rng.random() < 0.5)
        area = height * width
        low, high = log(_ASPECT[0]), log(_ASPECT[1])
        for _ in range(_TRIES):
            target = area * rng.uniform(*self.scale)
            aspect = exp(rng.uniform(low, high))
            w, h = round(sqrt(target * aspect)), round(sqrt(target / aspect))
            if 0 < w <= width and 0 < h <= height:
                top = int(rng.integers(0, height - h + 1))
                left = int(rng.integers(0, width - w + 1))
                return Crop(top, left, h, w, flip)
        # No fit (a very long image): the largest centred box of an allowed shape.
        w = min(width, max(1, round(height * _ASPECT[1])))
        h = min(height, max(1, round(width / _ASPECT[0])))
        return Crop((height - h) // 2, (width - w) // 2, h, w, flip)

    def apply(self, image: Tensor, crop: Crop) -> Tensor:
        """The crop of `image` (C, H, W) at the input size, mirrored where it says so."""
        out: Tensor = F.resized_crop(
            image,
            *crop[:4],
            size=list(self.image_size),
            interpolation=InterpolationMode(self.interpolation),
            antialias=True,
        )
        return out.flip(-1) if crop.flip else out

    def make_view(
        self, image: Tensor, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, RelativeCrop]:
        """The view, and what it shows."""
        if rng is None:
            raise ValueError("a training transform needs a random generator")
        height, width = image.shape[-2:]
        crop = self.draw(height, width, rng)
        return self.apply(image, crop), crop.relative(height, width)

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        return self.make_view(image, rng)[0]


@dataclass(frozen=True)
class EvalTransform:
    """Resize to cover image_size / crop_pct, cut the centre. Draws nothing."""

    image_size: Size
    crop_pct: float = 224 / 256
    interpolation: str = "bicubic"

    @property
    def load_size(self) -> Size:
        return resized_size(self.image_size, self.crop_pct)

    def make_view(
        self, image: Tensor, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, RelativeCrop]:
        """The view, and what it shows."""
        height, width = image.shape[-2:]
        y0, x0, y1, x1 = eval_box((height, width), self.image_size, self.crop_pct)
        return self(image), RelativeCrop(x0 / width, y0 / height, x1 / width, y1 / height)

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        return eval_view(image, self.image_size, self.crop_pct, self.interpolation)
