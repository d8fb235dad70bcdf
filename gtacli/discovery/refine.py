"""Refine a mask along the edges of its image with the bilateral solver or the guided filter.

Bilateral solver (Barron & Poole, arXiv 1511.03296) with the settings of TokenCut's
`bilateral_solver.py`: with A the bistochastic affinity of pixels close in position and color,

    y = argmin  lam / 2 sum_ij A_ij (y_i - y_j)^2 + sum_i c (y_i - t_i)^2,

solved on the cells of a coarse 5-d grid (x, y, luma, chroma) by conjugate gradients. Deviations
from the published file: cells are numbered exactly, while its hash mixes up cells of images wider
than 4000 pixels; and `largest_object` never returns the background.

Guided filter (He et al., 2010): kornia's.

The settings are made for images of 400 pixels. Larger ones are refined at up to 1024 pixels and the
soft result is enlarged: in 4000 pixels a window of 16 is small compared with an object, and the
solver needs gigabytes.

Shapes: h, w the image; V occupied cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from kornia.filters import guided_blur
from numpy.typing import NDArray
from scipy import ndimage

from gtacli.images.sizes import Size

if TYPE_CHECKING:
    from scipy import sparse

SIGMA_SPATIAL, SIGMA_LUMA, SIGMA_CHROMA = 16, 16, 8
LAM = 256.0
CONFIDENCE = 0.999
CG_TOL, CG_STEPS = 1e-5, 25
BISTOCHASTIC_STEPS = 10
GUIDED_EPS = 1e-4
LONGEST_SIDE = 1024

_YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def working_size(size: Size) -> Size:
    """Return the size (h, w) at which an image of `size` is refined."""
    scale = min(1.0, LONGEST_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def bilateral(image_hw3: NDArray[np.uint8], target_hw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Run the bilateral solver; return its soft output (h, w), about 0 to 1.

    Args:
        image_hw3: RGB.
        target_hw: the mask to refine, values 0 to 1.
    """
    from scipy import sparse  # here, as the guided filter has a first result sooner without it
    from scipy.sparse.linalg import cg

    cells, blur = _grid(image_hw3)
    count = blur.shape[0]
    pixels = np.bincount(cells, minlength=count).astype(np.float64)
    n = np.ones(count)
    for _ in range(BISTOCHASTIC_STEPS):
        n = np.sqrt(n * pixels / (blur @ n))
    m = n * (blur @ n)  # so that rows and columns agree at any stage of the iteration
    scale = sparse.diags(n)
    confidence = CONFIDENCE * pixels
    a = LAM * (sparse.diags(m) - scale @ blur @ scale) + sparse.diags(confidence)
    b = np.bincount(cells, CONFIDENCE * target_hw.ravel(), count)
    jacobi = sparse.diags(1 / np.maximum(a.diagonal(), 1e-5))
    y, _ = cg(a.tocsr(), b, x0=b / confidence, rtol=CG_TOL, maxiter=CG_STEPS, M=jacobi)
    refined: NDArray[np.float64] = y[cells].reshape(target_hw.shape)
    return refined


def _grid(image_hw3: NDArray[np.uint8]) -> tuple[NDArray[np.int64], sparse.csr_array]:
    """Return each pixel's cell (h w,), and the blur (V, V): the sum of 1 2 1 along every axis."""
    from scipy import sparse

    h, w = image_hw3.shape[:2]
    # The same product as in the published code: colors on a cell's border get the same cell.
    yuv = image_hw3.reshape(-1, 3).astype(np.float64) @ _YUV.T + [0, 128.0, 128.0]
    place = np.mgrid[:h, :w].reshape(2, -1)
    axes = (
        place[1] // SIGMA_SPATIAL,
        place[0] // SIGMA_SPATIAL,
        (yuv[:, 0] / SIGMA_LUMA).astype(np.int64),
        (yuv[:, 1] / SIGMA_CHROMA).astype(np.int64),
        (yuv[:, 2] / SIGMA_CHROMA).astype(np.int64),
    )
    key, stride = np.zeros(h * w, np.int64), 1
    strides = []
    for axis in axes:
        strides.append(stride)
        key += axis * stride
        stride *= int(axis.max()) + 2  # one unused number: the last cell of a row has no neighbor
    used, cells = np.unique(key, return_inverse=True)
    count = len(used)
    blur = 2 * len(axes) * sparse.eye_array(count, format="csr")
    for stride in strides:
        near = np.minimum(np.searchsorted(used, used + stride), count - 1)
        (here,) = np.nonzero(used[near] == used + stride)
        ones = np.ones(len(here))
        above = sparse.csr_array((ones, (here, near[here])), shape=(count, count))
        blur = blur + above + above.T
    return cells.ravel(), blur.tocsr()


def guided(
    image_hw3: NDArray[np.uint8], target_hw: NDArray[np.float64], radius: int
) -> NDArray[np.float64]:
    """Run the guided filter; return its soft output (h, w), about 0 to 1.

    The output is a local linear function of the image's colors.

    Args:
        image_hw3: RGB.
        target_hw: the mask to refine, values 0 to 1.
        radius: of the window in pixels; about two patches, the resolution of the mask.
    """
    guide = torch.from_numpy(image_hw3).permute(2, 0, 1)[None].float() / 255
    target = torch.from_numpy(target_hw).float()[None, None]
    refined = guided_blur(
        guide,
        target,
        2 * radius + 1,
        GUIDED_EPS,
        border_type="replicate",
        subsample=max(1, radius // 8),  # He & Sun, arXiv 1505.00996
        separable=True,
    )
    return refined[0, 0].double().numpy()


def largest_object(soft_hw: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the largest 4-connected component above 0.5 with holes filled; may be empty."""
    labels, count = ndimage.label(ndimage.binary_fill_holes(soft_hw > 0.5))
    if count == 0:
        return np.zeros(soft_hw.shape, bool)
    sizes = np.bincount(labels.ravel())[1:]
    largest: NDArray[np.bool_] = labels == 1 + int(sizes.argmax())
    return largest
