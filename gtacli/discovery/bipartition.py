"""Extract an object from an eigenvector: choose the side, and the component on it.

The eigenvector is cut at its mean. The object is

- side "seed", as in TokenCut (`ncut` of its object_discovery.py): the connected component of the
  largest absolute entry on that entry's side;
- side "center": of the connected components of both sides, the one that `center` prefers.

Shapes: B images, N = gh * gw patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from gtacli.discovery.base import unit_range
from gtacli.discovery.center import FOUR_CONNECTED, central_component

Side = Literal["seed", "center"]

_SAME = 3e-6  # relative tolerance: equal entries of fp32 solvers differ by up to 5e-7


@dataclass(frozen=True)
class NormalizedCut:
    """The object that a normalized cut finds in each of B images, on the features' device.

    If a graph has no cut (all patches are connected, or none) all values are zero, the mask is
    empty and the seed is -1.

    Attributes:
        map: (B, gh, gw) in [0, 1]: the eigenvector, high on the object, scaled by minimum and
            maximum.
        eigenvector: (B, N) fp32, y of (D - A) y = l D y with y^T D y = 1, largest on the object.
        mask: (B, gh, gw) bool, the object: a 4-connected component.
        box: (B, 4) int64, in patches: [x0, y0, x1, y1), around the mask.
        seed: (B,) int64, patch of the largest absolute entry of all, or for side "center" of the
            object; the first one of ties.
    """

    map: Tensor
    eigenvector: Tensor
    mask: Tensor
    box: Tensor
    seed: Tensor


def bipartition(y_BN: Tensor, grid: tuple[int, int], side: Side = "seed") -> NormalizedCut:
    """Extract the objects of eigenvectors y; a vector of zeros has none."""
    found = y_BN.any(-1)
    if side == "center":
        return _central(y_BN, found, grid)
    return _of_seed(y_BN, found, grid)


def _of_seed(y_BN: Tensor, found: Tensor, grid: tuple[int, int]) -> NormalizedCut:
    size = y_BN.abs()
    seed = largest_entry(size)
    side = y_BN > y_BN.mean(-1, keepdim=True)
    wrong = ~side.gather(1, seed[:, None])
    y = torch.where(wrong, -y_BN, y_BN)
    seed = torch.where(found, seed, -1)
    side = (side ^ wrong) & found[:, None]

    # One transfer; the labelling of a whole batch takes microseconds on the CPU.
    packed = torch.cat((seed[:, None], side), dim=1).cpu().numpy()
    components, boxes = component_of(packed[:, 1:].astype(bool).reshape(-1, *grid), packed[:, 0])
    return NormalizedCut(
        unit_range(y.unflatten(-1, grid)),
        y.float(),
        torch.from_numpy(components).to(y.device),
        torch.from_numpy(boxes).to(y.device),
        seed,
    )


def _central(y_BN: Tensor, found: Tensor, grid: tuple[int, int]) -> NormalizedCut:
    side = (y_BN > y_BN.mean(-1, keepdim=True)) & found[:, None]
    other = ~side & found[:, None]
    # One transfer; the labelling of a whole batch takes microseconds on the CPU.
    one, two = torch.stack((side, other)).cpu().numpy().reshape(2, -1, *grid)
    components = central_component(one, two)
    mask = torch.from_numpy(components).to(y_BN.device)
    object_ = mask.flatten(1)
    wrong = ~(side & object_).any(-1, keepdim=True)
    y = torch.where(wrong, -y_BN, y_BN)
    seed = largest_entry(torch.where(object_, y_BN.abs(), -1))
    return NormalizedCut(
        unit_range(y.unflatten(-1, grid)),
        y.float(),
        mask,
        torch.from_numpy(boxes_of(components)).to(y.device),
        torch.where(found, seed, -1),
    )


def largest_entry(y_BN: Tensor) -> Tensor:
    """Return the index (B,) of the largest entry, which is positive; the first one of ties.

    Patches with the same neighbors have equal entries, up to rounding errors (`_SAME`).
    """
    return (y_BN >= y_BN.amax(-1, keepdim=True) * (1 - _SAME)).int().argmax(-1)


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """Return boxes (B, 4) int64 [x0, y0, x1, y1) around masks (B, h, w); zeros if empty."""
    boxes = np.zeros((len(masks), 4), np.int64)
    for axis, (low, high) in ((2, (1, 3)), (1, (0, 2))):
        line = np.asarray(masks.any(axis))  # the mask's rows, then its columns
        some = line.any(-1)
        boxes[:, low] = line.argmax(-1) * some
        boxes[:, high] = (line.shape[-1] - line[:, ::-1].argmax(-1)) * some
    return boxes


def component_of(side: np.ndarray, seed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 4-connected component of `side` (B, gh, gw) at patch `seed` (B,), and its box.

    Components (B, gh, gw) are empty and boxes (B, 4) zero where the seed is -1.
    """
    labels, _ = ndimage.label(side, FOUR_CONNECTED)
    # An image with seed -1 is all background, label 0.
    own = labels.reshape(len(side), side[0].size if len(side) else 0)[np.arange(len(side)), seed]
    components = (labels == own[:, None, None]) & side
    return components, boxes_of(components)
