"""Resize masks and maps from the patch grid to the pixels of an image.

The network's input is the full image, stretched to the input size, so patch row r of gh covers the
pixel rows r h / gh to (r + 1) h / gh of the image, whatever its shape. Masks are resized by nearest
neighbor at pixel centers, as in TokenCut's saliency evaluation, soft maps bilinearly.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from gtacli.images.sizes import Size

T = TypeVar("T", bound=np.generic)

MAP_THRESHOLD = 0.15
"""Threshold for back-ends without masks, as a fraction of the map's maximum.

Grad-CAM's own localization uses it (Selvaraju et al., section 4.1).
"""


def mask_on(size: Size, mask_ghgw: NDArray[T]) -> NDArray[T]:
    """Resize a mask (..., gh, gw) of any dtype to (..., h, w) by nearest neighbor."""
    rows, columns = (
        (2 * np.arange(pixels) + 1) * patches // (2 * pixels)
        for pixels, patches in zip(size, mask_ghgw.shape[-2:], strict=True)
    )
    return mask_ghgw[..., rows[:, None], columns]


def map_on(size: Size, map_ghgw: NDArray[np.float32]) -> NDArray[np.float64]:
    """Resize a map (gh, gw) bilinearly to (h, w)."""
    wide = torch.from_numpy(map_ghgw)[None, None]
    resized = interpolate(wide, size, mode="bilinear", align_corners=False)
    return resized[0, 0].double().numpy()


def box_around(mask_hw: NDArray[np.bool_]) -> list[int] | None:
    """Return the box [x0, y0, x1, y1) of a mask in pixels; None for an empty mask."""
    rows, columns = (np.flatnonzero(mask_hw.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
