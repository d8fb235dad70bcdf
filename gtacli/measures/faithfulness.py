"""Insertion and deletion: whether the patches that a map ranks first carry the model's answer.

Patches are replaced by a baseline in the order of the map, and the model's probability of a class
is followed (RISE, Petsiuk et al., arXiv 1806.07421):

    deletion    the first patches of the order are replaced: a faithful map makes it fall early
    insertion   all but the first patches are replaced: a faithful map makes it rise early

Each is the area under its curve over the fraction of patches, from 0 to 1. Deletion is the positive
perturbation of Chefer et al. (arXiv 2012.09838); insertion is their negative one, read backwards:
what is left when the last patches of the order are replaced first. `gap`, insertion - deletion, is
the symmetric relevance gain (Bluecher et al., arXiv 2401.06654): what the first patches carry more
than the last ones, which cancels much of what the baseline itself does to the model.

Shapes: B images, N = gh x gw patches, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Fill = Literal["mean", "blur"]
_TIES = 0
"""Seed of the order of equal values."""


def make_baseline(images_B3hw: Tensor, grid: tuple[int, int], fill: Fill) -> Tensor:
    """Return what replaces removed pixels, of the images' shape.

    Args:
        images_B3hw: float, normalized or not.
        fill: "mean": the image's mean color; "blur": the image after a Gaussian whose standard
            deviation is the size of a patch.
    """
    if fill == "mean":
        return images_B3hw.mean((-2, -1), keepdim=True).expand_as(images_B3hw)
    sigma = [images_B3hw.shape[-1] / grid[1], images_B3hw.shape[-2] / grid[0]]
    # Reflection pads less than the image: three standard deviations, where it is large enough.
    kernel = [
        2 * min(round(3 * s), side - 1) + 1
        for s, side in zip(sigma, images_B3hw.shape[:-3:-1], strict=True)
    ]
    return F.gaussian_blur(images_B3hw, kernel, sigma)


def rank_patches(maps_Bhw: Tensor) -> Tensor:
    """Return the rank (B, N) of each patch, 0 for the highest value.

    Equal values are ranked by one random order, the same for all images, so that a map with many
    zeros is not helped by a regular scan.
    """
    values = maps_Bhw.flatten(1)
    generator = torch.Generator().manual_seed(_TIES)
    shuffle = torch.randperm(values.shape[1], generator=generator).to(values.device)
    order = shuffle[values[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    return order.argsort(1)


def step_counts(patches: int, steps: int) -> list[int]:
    """Return the S + 1 numbers of patches, from 0 to all; fewer for fewer patches."""
    return sorted(set(np.linspace(0, patches, steps + 1).round().astype(int).tolist()))


def keep_first(
    images_B3hw: Tensor, baseline_B3hw: Tensor, rank_BN: Tensor, grid: tuple[int, int], count: int
) -> Tensor:
    """Return the images with all but the first `count` patches replaced by the baseline.

    With images and baseline exchanged it removes the first patches.
    """
    size = images_B3hw.shape[-2:]
    kept = (rank_BN < count).unflatten(1, grid)[:, None].float()
    kept = torch.nn.functional.interpolate(kept, size)  # nearest
    return torch.where(kept > 0, images_B3hw, baseline_B3hw)


def center_map(grid: tuple[int, int]) -> Tensor:
    """Return a Gaussian around the image's center, (gh, gw): a guess without the image."""
    y, x = (torch.linspace(-1, 1, side + 2)[1:-1] for side in grid)
    return (-(y[:, None] ** 2 + x**2) * 2).exp()


def area_under(curves: NDArray[np.float64], fractions: Sequence[float]) -> NDArray[np.float64]:
    """Return the area (...) under curves (..., S + 1) at fractions from 0 to 1, by trapezoids."""
    return np.asarray(np.trapezoid(curves, fractions, axis=-1), np.float64)
