"""The operations of `timm.data.auto_augment` on batches of images, each with its own argument.

They use kornia's functions if these equal Pillow's. Between operations pixels are integers 0..255,
truncated where Pillow truncates.
"""

from collections.abc import Sequence
from math import cos, radians, sin
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Matrix = tuple[float, float, float, float, float, float]
_BLUR = 13  # pixels: three times the largest radius to either side


def apply_op(
    name: str, images: Tensor, args: Sequence[tuple[float, ...]], fill: tuple[int, ...]
) -> Tensor:
    """Apply an operation to every image.

    Args:
        name: name of a function in `timm.data.auto_augment`.
        images: fp32 (B, 3, h, w), integers 0..255.
        args: arguments of the function after the image, for each image.
        fill: color of places outside of a shifted image.

    Returns:
        The same shape, integers 0..255.
    """
    from kornia import enhance, filters

    height, width = images.shape[-2:]
    moves = [affine(name, a[0], height, width) for a in args] if name in MOVES else None
    if moves is not None:
        return warp(images, to_device(moves, images.device), fill)
    values = to_device([a[0] if a else 0.0 for a in args], images.device)
    each = values[:, None, None, None]
    if name == "invert":
        return 255 - images
    if name == "solarize":
        return torch.where(images < each, images, 255 - images)
    if name == "solarize_add":
        return torch.where(images < 128, (images + each).clamp(max=255), images)
    if name == "posterize":
        step = torch.exp2(8 - each)
        return (images / step).floor() * step
    if name == "auto_contrast":
        return _auto_contrast(images)
    unit = images.contiguous() / 255
    if name == "equalize":
        return (enhance.equalize(unit) * 255).round()
    if name == "gaussian_blur":
        sigma = values[:, None].expand(-1, 2)
        return (filters.gaussian_blur2d(unit, _BLUR, sigma, "replicate") * 255).round()
    if name == "desaturate":
        name, values = "color", (1 - values).clamp(0, 1)
    blend = {
        "brightness": enhance.adjust_brightness_accumulative,
        "contrast": enhance.adjust_contrast_with_mean_subtraction,
        "color": enhance.adjust_saturation_with_gray_subtraction,
        "sharpness": enhance.sharpness,
    }[name]
    return _truncate(blend(unit, values) * 255)


def to_device(values: Sequence[Any], device: torch.device) -> Tensor:
    """Create a small tensor without waiting for the device, as `torch.tensor(device=)` would."""
    return torch.tensor(values).to(device, non_blocking=True)


def _truncate(pixels: Tensor) -> Tensor:
    """Round down; integers with the rounding error of fp32 stay."""
    return (pixels + 1e-3).floor()


def _auto_contrast(images: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = _truncate((images - low) * (255 / (high - low).clamp(min=1)))
    return torch.where(high > low, stretched, images)


MOVES = {
    "rotate", "shear_x", "shear_y",
    "translate_x_rel", "translate_y_rel", "translate_x_abs", "translate_y_abs",
}  # fmt: skip


def affine(name: str, value: float, height: int, width: int) -> Matrix:
    """Return a, b, c, d, e, f: pixel (x, y) of the result is (ax + by + c, dx + ey + f)."""
    if name == "rotate":  # counterclockwise about the center
        c, s = cos(radians(value)), -sin(radians(value))
        x, y = width / 2, height / 2
        return c, s, x - c * x - s * y, -s, c, y + s * x - c * y
    along_x = value if "_x" in name else 0.0
    along_y = value if "_y" in name else 0.0
    if name.startswith("shear"):
        return 1, along_x, 0, along_y, 1, 0
    if name.endswith("rel"):
        along_x, along_y = along_x * width, along_y * height
    return 1, 0, along_x, 0, 1, along_y


def warp(images: Tensor, matrices: Tensor, fill: tuple[int, ...]) -> Tensor:
    """Transform images bilinearly, like Pillow; places outside of the image are filled.

    Args:
        images: fp32 (B, 3, h, w).
        matrices: (B, 6), see `affine`.
        fill: color.
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device) + 0.5
    y = (torch.arange(height, device=images.device) + 0.5)[:, None]
    a, b, c, d, e, f = matrices[:, :, None, None].unbind(1)
    # No matrix product: TF32 would cause errors of a fifth of a pixel.
    u, v = a * x + b * y + c, d * x + e * y + f
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    grid = torch.stack((2 * u / width - 1, 2 * v / height - 1), -1)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    empty = to_device(fill, images.device)[:, None, None]
    return torch.where(inside[:, None], _truncate(moved), empty.to(images))
