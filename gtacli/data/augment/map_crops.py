"""A map that travels with its image: what a crop of the image shows of it, on the patch grid.

The crop is drawn once, for image and map (`transforms.Shown`); the map is sampled from its own
cells at the crop's exact place, never rounded to them.

Each axis is a small matrix. A patch averages the map, taken as constant on each of its cells, over
a window around the patch's centre: as wide as the patch where that covers more than a cell (area
pooling), else as wide as a cell (which is bilinear interpolation). The two meet where a patch is as
large as a cell, and a map on its own grid comes through as it is. Beyond the map its border goes
on.

Shapes: B images, maps of mh x mw cells, a grid of gh x gw patches.
"""

from __future__ import annotations

import torch
from torch import Tensor


def crop_maps(maps: Tensor, shown: Tensor, grid: tuple[int, int]) -> Tensor:
    """What views of images show of their maps.

    Args:
        maps: (B, mh, mw) over the whole images; floats, or bytes that mean value / 255.
        shown: (B, 5) boxes x0, y0, x1, y1 as shares of the image, and 1 for a mirrored view, as
            `loader.Batch` has them.
        grid: (gh, gw) patches of the view.

    Returns:
        (B, gh, gw) in fp32.
    """
    values = maps.float() / 255 if maps.dtype == torch.uint8 else maps.float()
    x0, y0, x1, y1, flip = shown.to(values.device, torch.float32).unbind(1)
    mirrored = flip != 0
    left, right = torch.where(mirrored, x1, x0), torch.where(mirrored, x0, x1)
    rows = _windows(y0, y1, grid[0], values.shape[1])
    columns = _windows(left, right, grid[1], values.shape[2])
    with torch.autocast(values.device.type, enabled=False):
        return rows @ values @ columns.transpose(1, 2)


def _windows(start: Tensor, end: Tensor, patches: int, cells: int) -> Tensor:
    """(B, patches, cells): the share of each cell in each patch's window; rows sum to 1.

    start, end: (B,) edges of the crop as shares of the side; in the other order it is mirrored.
    """
    step = (end - start) * cells / patches
    steps = torch.arange(patches, device=start.device) + 0.5
    centre = ((start * cells)[:, None] + step[:, None] * steps)[..., None]
    half = step.abs().clamp_min(1)[:, None, None] / 2
    edges = torch.arange(cells + 1, device=start.device, dtype=start.dtype)
    edges[0], edges[-1] = -torch.inf, torch.inf  # the border goes on
    below = ((edges - centre) / (2 * half)).clamp(-0.5, 0.5)
    return below.diff(dim=-1)
