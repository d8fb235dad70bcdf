"""Cropping of maps like their images, resampled to the patch grid.

The crop is drawn once for image and map (`transforms.RelativeCrop`); it need not lie on the map's
cells.

Each axis is a small matrix. A patch averages the map, which is constant on each cell, over a window
around the patch's center. The window is as wide as the patch if that covers more than a cell (area
pooling), and otherwise as wide as a cell (bilinear interpolation). Both agree if a patch is as
large as a cell, and a map on its own grid stays as it is. Beyond the map its border is repeated.

Shapes: B images, maps of mh x mw cells, a grid of gh x gw patches.
"""

from __future__ import annotations

import torch
from torch import Tensor


def crop_maps(maps: Tensor, crops: Tensor, grid: tuple[int, int]) -> Tensor:
    """Crop maps like the views of their images, and resample them to the patch grid.

    Args:
        maps: (B, mh, mw) of the whole images; floats, or bytes that represent value / 255.
        crops: (B, 5) boxes x0, y0, x1, y1 relative to the image, and 1 for a mirrored view, see
            `loader.Batch`.
        grid: (gh, gw) patches of the view.

    Returns:
        (B, gh, gw) in fp32.
    """
    values = maps.float() / 255 if maps.dtype == torch.uint8 else maps.float()
    x0, y0, x1, y1, flip = crops.to(values.device, torch.float32).unbind(1)
    mirrored = flip != 0
    left, right = torch.where(mirrored, x1, x0), torch.where(mirrored, x0, x1)
    rows = _windows(y0, y1, grid[0], values.shape[1])
    columns = _windows(left, right, grid[1], values.shape[2])
    with torch.autocast(values.device.type, enabled=False):
        return rows @ values @ columns.transpose(1, 2)


def _windows(start: Tensor, end: Tensor, patches: int, cells: int) -> Tensor:
    """Compute the fraction of each cell in each patch's window; rows sum to 1.

    Args:
        start, end: (B,) edges of the crop relative to the side; reversed if it is mirrored.
        patches: number of patches.
        cells: number of cells of the map.

    Returns:
        (B, patches, cells).
    """
    step = (end - start) * cells / patches
    steps = torch.arange(patches, device=start.device) + 0.5
    center = ((start * cells)[:, None] + step[:, None] * steps)[..., None]
    half = step.abs().clamp_min(1)[:, None, None] / 2
    edges = torch.arange(cells + 1, device=start.device, dtype=start.dtype)
    edges[0], edges[-1] = -torch.inf, torch.inf  # repeats the border
    below = ((edges - center) / (2 * half)).clamp(-0.5, 0.5)
    return below.diff(dim=-1)
