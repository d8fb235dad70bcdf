"""A map that travels with its image: what a crop of the image shows of it, on the patch grid.

The crop is drawn once, for image and map (`transforms.Crop`); the map is sampled from its own
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

from gtacli.data.transforms import Crop


def crop_box(crop: Crop, height: int, width: int) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) of a crop as shares of its `height` x `width` image."""
    top, left, h, w, _ = crop
    return left / width, top / height, (left + w) / width, (top + h) / height


def view_maps(maps: Tensor, boxes: Tensor, flips: Tensor, grid: tuple[int, int]) -> Tensor:
    """What crops of images show of their maps.

    Args:
        maps: (B, mh, mw) over the whole images; floats, or bytes that mean value / 255.
        boxes: (B, 4) crops (x0, y0, x1, y1) as shares of the image.
        flips: (B,) bool: the crop is mirrored left to right.
        grid: (gh, gw) patches of the view.

    Returns:
        (B, gh, gw) in fp32.
    """
    values = maps.float() / 255 if maps.dtype == torch.uint8 else maps.float()
    x0, y0, x1, y1 = boxes.to(values.device, torch.float32).unbind(1)
    mirrored = flips.to(values.device)
    start, end = torch.where(mirrored, x1, x0), torch.where(mirrored, x0, x1)
    rows = _windows(y0, y1, grid[0], values.shape[1])
    columns = _windows(start, end, grid[1], values.shape[2])
    with torch.autocast(values.device.type, enabled=False):
        return rows @ values @ columns.transpose(1, 2)


def view_map(
    map: Tensor, box: tuple[float, float, float, float], flip: bool, grid: tuple[int, int]
) -> Tensor:
    """`view_maps` of one map (mh, mw): (gh, gw)."""
    return view_maps(map[None], torch.tensor([box]), torch.tensor([flip]), grid)[0]


def _windows(start: Tensor, end: Tensor, patches: int, cells: int) -> Tensor:
    """(B, patches, cells): the share of each cell in each patch's window; rows sum to 1.

    start, end: (B,) edges of the crop as shares of the side; in the other order it is mirrored.
    """
    start, step = start * cells, (end - start) * cells / patches
    steps = torch.arange(patches, device=start.device) + 0.5
    centre = (start[:, None] + step[:, None] * steps)[..., None]
    half = step.abs().clamp_min(1)[:, None, None] / 2
    edges = torch.arange(cells + 1, device=start.device, dtype=start.dtype)
    edges[0], edges[-1] = -torch.inf, torch.inf  # the border goes on
    below = ((edges - centre) / (2 * half)).clamp(-0.5, 0.5)
    return below.diff(dim=-1)
