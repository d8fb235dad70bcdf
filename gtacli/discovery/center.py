"""The center prior: objects lie near the middle of a photograph, backgrounds reach its border.

An eigenvector divides the patches in two; it does not say which part is the object. TokenCut takes
the part of the largest entry, which for networks other than DINO's is often the sky, or a corner
whose tokens the network uses as registers. The prior has no parameter:

    w_p = mean over the grid of r^2 - r_p^2,

r_p the distance of patch p from the center, each axis in units of the image's side. The w sum to 0,
so a region's sum of w is the larger, the more of the middle and the less of the border it covers;
of all regions a disk that covers half of the axes has the largest sum, all patches together have 0.

Shapes: B images, N = gh * gw patches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Neighbors share an edge; images of a batch are not neighbors.
FOUR_CONNECTED = np.zeros((3, 3, 3), bool)
FOUR_CONNECTED[1] = [[False, True, False], [True, True, True], [False, True, False]]


def center_weights(grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return w (gh, gw), which sums to 0; larger near the center."""
    y, x = ((np.arange(n) - (n - 1) / 2) / n for n in grid)
    squared: NDArray[np.float64] = y[:, None] ** 2 + x**2
    return squared.mean() - squared


def central_component(*sides_Bhw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the 4-connected component (B, gh, gw) with the largest sum of w of all sides.

    The first one of ties; empty where every side is.
    """
    shape = sides_Bhw[0].shape
    each = np.broadcast_to(center_weights((shape[1], shape[2])), shape).ravel()
    best = np.full(len(sides_Bhw[0]), -np.inf)
    chosen = np.zeros(shape, bool)
    for side in sides_Bhw:
        labels, count = ndimage.label(side, FOUR_CONNECTED)
        sums = np.bincount(labels.ravel(), each, count + 1).astype(np.float64)
        sums[0] = -np.inf  # not on this side
        scores = sums[labels].reshape(len(side), side[0].size if len(side) else 0)
        top = scores.argmax(-1) if len(side) else np.zeros(0, np.int64)
        score = scores[np.arange(len(side)), top]
        own = labels.reshape(scores.shape)[np.arange(len(side)), top]
        better = score > best
        chosen[better] = (labels == own[:, None, None])[better]
        best = np.maximum(best, score)
    return chosen


def center_confidence(mask_hw: NDArray[np.bool_]) -> float:
    """Return the correlation of a mask (gh, gw) with w, at least 0: how sure it is an object.

    0 for a mask without patches, or of all patches. On drawn scenes it separates masks of creatures
    from masks of mere scenery (`benchmarks/object_side.py`).
    """
    w = center_weights((mask_hw.shape[0], mask_hw.shape[1]))
    inside = float(mask_hw.mean())
    spread = np.sqrt((w**2).mean() * inside * (1 - inside))
    if not spread > 0:
        return 0.0
    return max(0.0, float((w * mask_hw).mean() / spread))
