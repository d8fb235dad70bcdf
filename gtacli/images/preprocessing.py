"""How a model wants its images: resize, centre crop, normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli.images.sizes import cover_size, upright_rgb


def resized_size(image_size: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    """(h, w) that evaluation resizes an image to cover before the centre crop (timm's rule)."""
    h, w = image_size
    return max(h, math.floor(h / crop_pct)), max(w, math.floor(w / crop_pct))


def eval_view(
    image: Tensor, image_size: tuple[int, int], crop_pct: float, interpolation: str
) -> Tensor:
    """Evaluation's view of an image: resized, centre cropped.

    Args:
        image: uint8 (3, h, w).
        image_size: (h, w) of the result.
        crop_pct: share of the resized image that the crop keeps.
        interpolation: bilinear, bicubic or nearest; antialiased.

    Returns: uint8 (3, *image_size).
    """
    height, width = image.shape[-2:]
    size = cover_size(height, width, resized_size(image_size, crop_pct), enlarge=True)
    if size != (height, width):
        image = F.resize(image, list(size), InterpolationMode(interpolation), antialias=True)
    return F.center_crop(image, list(image_size))


def eval_box(
    size: tuple[int, int], image_size: tuple[int, int], crop_pct: float
) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of what `eval_view` shows of an image of `size` (h, w), in pixels
    of that image."""
    wide = cover_size(*size, resized_size(image_size, crop_pct), enlarge=True)
    starts = [round((w - i) / 2) for w, i in zip(wide, image_size, strict=True)]
    (top, bottom), (left, right) = (
        (start * s / w, (start + i) * s / w)
        for start, s, w, i in zip(starts, size, wide, image_size, strict=True)
    )
    return top, left, bottom, right


class InputView:
    """Makes a network's own input of a batch of pixels: its size, its normalisation.

    Args:
        image_size: (h, w) that it wants.
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
        # On the scale of the pixels, so that a batch is touched twice and not three times.
        self._mean, self._std = (
            torch.tensor(v, device=device).mul(255).view(-1, 1, 1) for v in (mean, std)
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Pixels (B, 3, h, w) of 0..255, uint8 or fp32 -> normalised fp32 (B, 3, *image_size)."""
        if images.shape[-2:] != self.image_size:
            images = interpolate(images.float(), self.image_size, mode="bilinear", antialias=True)
        return (images - self._mean).div_(self._std)


@dataclass(frozen=True)
class Preprocess:
    """PIL image (any mode) -> normalised tensor (3, h, w), as the model was evaluated in training.

    Attributes:
        image_size: (h, w) in pixels.
        mean, std: per channel, of values in 0..1.
        interpolation: of the resize.
        crop_pct: share of the resized image that the centre crop keeps.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = F.pil_to_tensor(upright_rgb(image))
        view = eval_view(pixels, self.image_size, self.crop_pct, self.interpolation)
        return F.normalize(F.to_dtype(view, torch.float32, scale=True), [*self.mean], [*self.std])
