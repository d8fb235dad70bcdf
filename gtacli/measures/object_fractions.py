"""Object masks on a patch grid, by area: a patch half inside the object counts half."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gtacli.measures.segmentation import VOID


def object_fractions(
    labels_hw: NDArray[np.int32],
    grid: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> Tensor:
    """Compute the fraction of each patch's area that belongs to an object: (gh, gw) fp32.

    Args:
        labels_hw: as in `gtacli.data.truth.Truth.labels`: 0 is background, objects are above it.
            Void pixels count neither way.
        grid: patches (gh, gw) that cover `box` evenly.
        box: (top, left, bottom, right), the input of the model, in pixels and not necessarily
            whole ones; default: the image.
    """
    height, width = labels_hw.shape
    top, left, bottom, right = box or (0.0, 0.0, float(height), float(width))
    rows, columns = (
        _overlaps(grid[0], height, top, bottom),
        _overlaps(grid[1], width, left, right).T,
    )
    labels = torch.from_numpy(labels_hw)
    inside = rows @ (labels > 0).double() @ columns
    known = rows @ (labels != VOID).double() @ columns
    return torch.where(known > 0, inside / known.clamp_min(1e-12), 0.0).float()


def regrid_masks(masks_Bhw: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample masks (B, h, w) from one patch grid to fractions (B, gh, gw) fp32 on another."""
    rows, columns = (
        _overlaps(cells, size, 0.0, float(size)).float().to(masks_Bhw.device)
        for cells, size in zip(grid, masks_Bhw.shape[-2:], strict=True)
    )
    return rows @ masks_Bhw.float() @ columns.T


def _overlaps(cells: int, pixels: int, low: float, high: float) -> Tensor:
    """Compute how much of each of the equal cells of [low, high) lies in each pixel [i, i + 1).

    Float64 (cells, pixels). Exact, where a resize by whole pixels may be off by one.
    """
    edges = torch.linspace(low, high, cells + 1, dtype=torch.float64)[:, None]
    starts = torch.arange(pixels, dtype=torch.float64)
    common = torch.minimum(edges[1:], starts + 1) - torch.maximum(edges[:-1], starts)
    return common.clamp_min(0) * (cells / (high - low))
