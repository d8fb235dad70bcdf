"""Preprocessing as a part of a graph: a model's resize and center crop of images of any size.

Both passes of the resize are products with a matrix of the antialiased filter's weights, which
holds the crop, too:

    A[i, j] = f((j + 1/2 - c_i) / max(1, r)),    c_i = (i + start + 1/2) r,    rows summing to 1

with r pixels of the image for a pixel of the result. It is the filter of Pillow and of torch's
antialiased `interpolate` (bicubic: a = -1/2), rounded to whole levels after each pass, as they are.
Exporters know matrix products of any size; few know an antialiased resize to a computed size.

Shapes: B images, H x W pixels, h x w pixels of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gtacli.images.sizes import Size, resize_target


class ResizeAndCrop(nn.Module):
    """The evaluation view of images of one size: uint8 (B, 3, H, W) to fp32 (B, 3, h, w), 0..255.

    Args:
        image_size: (h, w) of the result.
        crop_pct: fraction of the resized image's side that the crop keeps.
        interpolation: bilinear, bicubic or nearest.
    """

    def __init__(self, image_size: Size, crop_pct: float, interpolation: str) -> None:
        super().__init__()
        self.image_size, self.interpolation = image_size, interpolation
        self.target = resize_target(image_size, crop_pct)

    def forward(self, images: Tensor) -> Tensor:
        """Return the view."""
        rows, columns = self.axes(images)
        narrow = _levels(images.float() @ self._weights(columns, 1).T)
        return _levels(self._weights(rows, 0) @ narrow)

    def axes(self, images: Tensor) -> tuple[Axis, Axis]:
        """Return how rows and columns are resized."""
        height, width = (_positions(images, dim) for dim in (2, 3))
        scale = torch.maximum(self.target[0] / _count(height), self.target[1] / _count(width))
        return self._axis(height, scale, 0), self._axis(width, scale, 1)

    def to_image(self, box: Tensor, images: Tensor) -> Tensor:
        """Return boxes (B, 4), x0 y0 x1 y1 in pixels of the view, in pixels of the image."""
        (rows, columns) = self.axes(images)
        each = [(columns[1], columns[2]), (rows[1], rows[2])] * 2
        moved = [(box[:, i] + start) * step for i, (step, start) in enumerate(each)]
        return torch.stack(moved, 1).to(box.dtype)

    def _axis(self, positions: Tensor, scale: Tensor, side: int) -> Axis:
        count = _count(positions)
        whole = (count * scale).round().clamp(min=self.target[side])
        start = ((whole - self.image_size[side]) / 2).round()
        return positions, count / whole, start

    def _weights(self, axis: Axis, side: int) -> Tensor:
        """Return the matrix of an axis, fp32 (h, H)."""
        positions, step, start = axis
        out = torch.arange(self.image_size[side], dtype=torch.float64) + start
        if self.interpolation == "nearest":
            return ((out * step).floor()[:, None] == positions).float()
        x = (positions + 0.5 - ((out + 0.5) * step)[:, None]) / step.clamp(min=1)
        weights = _cubic(x.abs()) if self.interpolation == "bicubic" else (1 - x.abs()).clamp(min=0)
        return (weights / weights.sum(1, keepdim=True)).float()


Axis = tuple[Tensor, Tensor, Tensor]
"""Numbers of the pixels, pixels for one of the result, and the first one that the crop keeps."""


def _positions(images: Tensor, dim: int) -> Tensor:
    """Return the numbers of the pixels along a dimension, in fp64 as Python has sizes."""
    return torch.arange(images.shape[dim], dtype=torch.float64, device=images.device)


def _count(positions: Tensor) -> Tensor:
    return positions[-1] + 1


def _cubic(x: Tensor) -> Tensor:
    """Return the cubic filter (Keys, a = -1/2) of distances x."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _levels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255)
