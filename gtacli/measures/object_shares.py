"""Object masks on the patch grid, by area: a patch that is half inside the object counts half."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gtacli.measures.segmentation import VOID

Box = tuple[float, float, float, float]
"""(top, left, bottom, right) in pixels, not necessarily whole ones."""


def object_shares(
    labels_hw: NDArray[np.int32], grid: tuple[int, int], box: Box | None = None
) -> Tensor:
    """(gh, gw) fp32 in [0, 1]: the share of each patch's area that belongs to an object.

    Args:
        labels_hw: as in `gtacli.data.truth.Truth.labels`: 0 background, above it objects. Pixels
            that the annotators left open count neither way.
        grid: patches (gh, gw) that cover `box` evenly.
        box: the part that the network sees; default: all of it.
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


def regrid(masks_Bhw: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks (B, h, w) on one patch grid as shares (B, gh, gw) fp32 of another's patches."""
    rows, columns = (
        _overlaps(cells, size, 0.0, float(size)).float().to(masks_Bhw.device)
        for cells, size in zip(grid, masks_Bhw.shape[-2:], strict=True)
    )
    return rows @ masks_Bhw.float() @ columns.T


def _overlaps(cells: int, pixels: int, low: float, high: float) -> Tensor:
    """(cells, pixels) float64: how much of each of the equal cells of [low, high) lies in each
    pixel [i, i + 1). Exact, where a resize by whole pixels would be off by one here and there."""
    edges = torch.linspace(low, high, cells + 1, dtype=torch.float64)[:, None]
    starts = torch.arange(pixels, dtype=torch.float64)
    common = torch.minimum(edges[1:], starts + 1) - torch.maximum(edges[:-1], starts)
    return common.clamp_min(0) * (cells / (high - low))
