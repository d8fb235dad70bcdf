"""Convert images to patches and back, and choose the visible ones for a masked autoencoder.

Shapes: B images of h x w, N = gh * gw patches of p x q pixels, K of them visible.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor
from torch.nn import functional as F

Masking = Literal["random", "attention", "inverse"]


def patchify(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """Cut images (B, 3, h, w) into patches (B, N, p * q * 3), row by row.

    A patch's values are in the order p, q, channel of MAE's published decoders. h and w are
    multiples of the patch's sides.
    """
    b, c, h, w = images.shape
    p, q = patch
    grid = images.reshape(b, c, h // p, p, w // q, q)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, p * q * c)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """Invert `patchify`: (B, N, p * q * 3) -> (B, 3, h, w)."""
    (gh, gw), (p, q) = grid, patch
    x = patches.unflatten(-1, (p, q, -1)).unflatten(1, (gh, gw))
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, gh * p, gw * q)


def take(rows: Tensor, indices: Tensor) -> Tensor:
    """Select rows (B, N, ...) at indices (B, K) -> (B, K, ...)."""
    return rows[torch.arange(len(rows), device=rows.device).unsqueeze(1), indices]


def standardize(patches: Tensor) -> Tensor:
    """Standardize each patch by its mean and unbiased variance + 1e-6, as MAE's targets."""
    var, mean = torch.var_mean(patches, -1, keepdim=True)
    return (patches - mean) * (var + 1e-6).rsqrt()


def sincos_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Return fixed positions (N, width) in MAE's order: sin x, cos x, sin y, cos y.

    The width is a multiple of 4.
    """
    # timm's own order is sin y, sin x, cos y, cos x.
    rows = build_sincos2d_pos_embed(list(grid), width).unflatten(-1, (2, 2, -1))
    return cast(Tensor, rows.flip(2).transpose(1, 2).flatten(1))


def visible_patches(patches: int, mask_ratio: float) -> int:
    """Return the number of visible patches: rounded down as in MAE, but at least 1."""
    # 10 * (1 - 0.9) is 0.99999...
    return max(1, int(patches * (1 - mask_ratio) + 1e-6))


def mask_order(
    noise: Tensor,
    maps: Tensor | None = None,
    masking: Masking = "random",
    chosen: int | None = None,
) -> Tensor:
    """Return the patches (B, N) of each image in masking order: the first ones stay visible.

    Args:
        noise: (B, N) uniform in [0, 1); the same noise gives the same masks (and MAE's own).
        maps: (B, N) in [0, 1]; required unless masking is "random".
        masking: "random"; "attention" masks the patches with the highest values, "inverse" those
            with the lowest. Noise orders equal values of 8-bit maps.
        chosen: number of patches that the maps choose, which come last; the others are in random
            order, as HPM has them (arXiv 2304.05919). None: all.
    """
    if masking == "random":
        return noise.argsort(1)
    assert maps is not None, "this masking needs maps"
    sign = 1 if masking == "attention" else -1
    order = (sign * maps + noise / 256).argsort(1)
    if chosen is None:
        return order
    first = order.shape[1] - chosen
    others = noise.scatter(1, order[:, first:], 2.0)  # beyond all noise
    return torch.cat([others.argsort(1)[:, :first], order[:, first:]], 1)


def embed_patches(patches: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a patch embedding's kernel (C, 3, p, q) to patches (B, K, p * q * 3): (B, K, C)."""
    return F.linear(patches, kernel.permute(0, 2, 3, 1).flatten(1), bias)
