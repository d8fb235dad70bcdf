"""Random and center crops of images to the input size, as uint8 (3, h, w).

The usual recipe: images are loaded with a shorter side of 256/224 of the input's. Training takes a
random resized crop (Szegedy et al., 2014; drawn as in torchvision) and a random flip; evaluation
resizes to input / crop_pct and crops the center (timm's rule). Images are normalized later, on the
device, with each model's mean and std.

Drawing a crop and applying it are separate, and every view comes with its crop (`RelativeCrop`), so
that a map can be cropped like its image.
"""

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli.images.preprocessing import (
    compute_eval_box,
    make_eval_view,
    make_whole_view,
)
from gtacli.images.sizes import Size, resize_target

LOAD_RATIO = 256 / 224
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10


class RelativeCrop(NamedTuple):
    """A crop relative to the sides of its image, and whether it is mirrored."""

    x0: float
    y0: float
    x1: float
    y1: float
    flip: bool = False


class Transform(Protocol):
    """A function from uint8 (3, H, W) to uint8 (3, *image_size); only random ones use `rng`."""

    @property
    def image_size(self) -> Size:
        """(height, width) of the views."""
        ...

    @property
    def load_size(self) -> Size:
        """(height, width) that loaded images must cover."""
        ...

    def make_view(
        self, image: Tensor, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, RelativeCrop]:
        """Return a view of `image` and its crop."""
        ...

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> Tensor: ...


class Crop(NamedTuple):
    """A crop in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool

    def relative(self, height: int, width: int) -> RelativeCrop:
        """Return the crop relative to a `height` x `width` image."""
        right, bottom = self.left + self.width, self.top + self.height
        box = self.left / width, self.top / height, right / width, bottom / height
        return RelativeCrop(*box, self.flip)


@dataclass(frozen=True)
class TrainTransform:
    """A random resized crop and flip; `scale` is the range of the crop's fraction of the area."""

    image_size: Size
    scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    interpolation: str = "bicubic"
    load_ratio: float = LOAD_RATIO
    """Ratio of the loaded to the input side; with 1 / sqrt(scale[0]) no crop is enlarged."""

    @property
    def load_size(self) -> Size:
        side = round(max(self.image_size) * self.load_ratio)
        return side, side

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Crop:
        """Draw a crop of a `height` x `width` image."""
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
        # No fit (a very long image): the largest centered box of an allowed shape.
        w = min(width, max(1, round(height * _ASPECT[1])))
        h = min(height, max(1, round(width / _ASPECT[0])))
        return Crop((height - h) // 2, (width - w) // 2, h, w, flip)

    def apply(self, image: Tensor, crop: Crop) -> Tensor:
        """Return the crop of `image` (C, H, W) at the input size."""
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
        """Return a view of `image` and its crop."""
        if rng is None:
            raise ValueError("a training transform needs a random generator")
        height, width = image.shape[-2:]
        crop = self.draw(height, width, rng)
        return self.apply(image, crop), crop.relative(height, width)

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        return self.make_view(image, rng)[0]


@dataclass(frozen=True)
class EvalTransform:
    """A resize to cover image_size / crop_pct and a center crop, without randomness."""

    image_size: Size
    crop_pct: float = 224 / 256
    interpolation: str = "bicubic"

    @property
    def load_size(self) -> Size:
        return resize_target(self.image_size, self.crop_pct)

    def make_view(
        self, image: Tensor, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, RelativeCrop]:
        """Return a view of `image` and its crop."""
        height, width = image.shape[-2:]
        y0, x0, y1, x1 = compute_eval_box((height, width), self.image_size, self.crop_pct)
        return self(image), RelativeCrop(x0 / width, y0 / height, x1 / width, y1 / height)

    def resize(self, image: Tensor) -> Tensor:
        """Return the whole image as it is before the crop."""
        return make_whole_view(image, self.image_size, self.crop_pct, self.interpolation)

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        return make_eval_view(image, self.image_size, self.crop_pct, self.interpolation)
