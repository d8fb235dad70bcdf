"""From the patch grid to the pixels of an image.

The network sees the whole image, stretched to its own size, so that patch row r of gh covers the
pixel rows from r h / gh to (r + 1) h / gh of the image itself, whatever its shape. Masks are laid
on the pixels by nearest neighbour, as TokenCut's saliency evaluation does it, each pixel by its
centre; soft maps bilinearly.
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
"""Share of a soft map's maximum, for a back-end without masks: Grad-CAM's own localisation
(Selvaraju et al., section 4.1)."""


def mask_on(size: Size, mask_ghgw: NDArray[T]) -> NDArray[T]:
    """(..., gh, gw) -> (..., h, w), of numbers too, enlarged or reduced."""
    rows, columns = (
        (2 * np.arange(pixels) + 1) * patches // (2 * pixels)
        for pixels, patches in zip(size, mask_ghgw.shape[-2:], strict=True)
    )
    return mask_ghgw[..., rows[:, None], columns]


def map_on(size: Size, map_ghgw: NDArray[np.float32]) -> NDArray[np.float64]:
    """(gh, gw) -> (h, w)."""
    wide = torch.from_numpy(map_ghgw)[None, None]
    resized = interpolate(wide, size, mode="bilinear", align_corners=False)
    return resized[0, 0].double().numpy()


def box_around(mask_hw: NDArray[np.bool_]) -> list[int] | None:
    """[x0, y0, x1, y1) in pixels; None around nothing."""
    rows, columns = (np.flatnonzero(mask_hw.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
