"""A model's preprocessing: resize, center crop, normalization."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli.images.sizes import cover_size, ends_to_cut, resize_target, to_upright_rgb


def make_eval_view(
    image: Tensor, image_size: tuple[int, int], crop_pct: float, interpolation: str
) -> Tensor:
    """Resize and center crop an image as evaluation does.

    Args:
        image: uint8 (3, h, w).
        image_size: (h, w) of the result.
        crop_pct: fraction of the resized image's side that the crop keeps.
        interpolation: bilinear, bicubic or nearest; antialiased.

    Returns: uint8 (3, *image_size).
    """
    whole = make_whole_view(image, image_size, crop_pct, interpolation)
    return F.center_crop(whole, list(image_size))


def make_whole_view(
    image: Tensor, image_size: tuple[int, int], crop_pct: float, interpolation: str
) -> Tensor:
    """Resize an image as `make_eval_view` does before its crop."""
    target = resize_target(image_size, crop_pct)
    image = _cut_ends(image, target)
    height, width = image.shape[-2:]
    size = cover_size(height, width, target, enlarge=True)
    if size != (height, width):
        image = F.resize(image, list(size), InterpolationMode(interpolation), antialias=True)
    return image


def _cut_ends(image: Tensor, cover: tuple[int, int]) -> Tensor:
    """Cut off the ends of an image so narrow that it would fill the memory when enlarged."""
    height, width = image.shape[-2:]
    top, left = ends_to_cut((height, width), cover)
    return image[..., top : height - top, left : width - left]


def compute_eval_box(
    size: tuple[int, int], image_size: tuple[int, int], crop_pct: float
) -> tuple[float, float, float, float]:
    """Return the box that `make_eval_view` crops from an image of `size` (h, w).

    Returns: (top, left, bottom, right) in pixels of that image.
    """
    wide = cover_size(*size, resize_target(image_size, crop_pct), enlarge=True)
    starts = [round((w - i) / 2) for w, i in zip(wide, image_size, strict=True)]
    (top, bottom), (left, right) = (
        (start * s / w, (start + i) * s / w)
        for start, s, w, i in zip(starts, size, wide, image_size, strict=True)
    )
    return top, left, bottom, right


class InputView:
    """A network's input size and normalization, applied to batches of pixels.

    Args:
        image_size: (h, w) of the network's input.
        mean, std: per channel, of values in 0..1.
        device: where the batches are.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        self.settings = (image_size, mean, std)
        self.image_size = image_size
        # On the scale of 0..255: normalizing takes two passes over a batch instead of three.
        self._mean, self._std = (
            torch.tensor(v, device=device).mul(255).view(-1, 1, 1) for v in (mean, std)
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Return normalized fp32 (B, 3, *image_size) of pixels (B, 3, h, w) in 0..255."""
        if images.shape[-2:] != self.image_size:
            images = interpolate(images.float(), self.image_size, mode="bilinear", antialias=True)
        return (images - self._mean).div_(self._std)


@dataclass(frozen=True)
class Preprocess:
    """The transform of a PIL image (any mode) into a normalized tensor (3, h, w), as in evaluation.

    Attributes:
        image_size: (h, w) in pixels.
        mean, std: per channel, of values in 0..1.
        interpolation: of the resize.
        crop_pct: fraction of the resized image's side that the center crop keeps.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = F.pil_to_tensor(to_upright_rgb(image))
        view = make_eval_view(pixels, self.image_size, self.crop_pct, self.interpolation)
        return F.normalize(F.to_dtype(view, torch.float32, scale=True), [*self.mean], [*self.std])
