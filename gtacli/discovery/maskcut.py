"""Several objects per image by repeated cuts (MaskCut of CutLER, Wang et al., arXiv 2301.11320).

After each normalized cut the features of the object's patches are set to zero (section 3.2),

    W_ij = (f_i m_i) . (f_j m_j) / (|f_i| |f_j|),   m = 0 on earlier objects, 1 elsewhere,

so that those patches keep only edges of weight eps, and the rest is cut again. Each cut divides y
at its mean. The object's side is
1. that of the largest |y|,
2. but the other one if the first contains three or four of the image's corners,
and the object is the connected component of the largest entry on that side. An image is finished
when a new object overlaps an earlier one (IoU above 0.5), has at most 1 % of the patches, or has no
patch outside the earlier objects.

With side "center" the first object is that of a single cut (`bipartition`), and these rules are for
the others, which need not lie near the center.

Deviations from the released maskcut.py:
- There the result depends on the arbitrary sign of the solver's y if rules 1 and 2 disagree; here
  rule 1 is applied first.
- There an object is compared with the previous one only, and after a rejection the same cut is
  repeated and accepted; here it is compared with all earlier ones, and the image is finished.
- There a conditional random field refines the masks.

Shapes: B images, N = gh * gw patches, C width of a feature, K objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gtacli.discovery.base import unit_range
from gtacli.discovery.bipartition import Side, component_of, largest_entry
from gtacli.discovery.ncut import Solver, normalized_cut
from gtacli.errors import UsageError

OVERLAP = 0.5  # IoU with an earlier object above which an object is not new
SMALLEST = 0.01  # fraction of the patches up to which a later object is rejected
CORNERS = 3  # of the image on one side that make it the background


@dataclass(frozen=True)
class RepeatedCuts:
    """The objects of B images.

    Attributes:
        masks: (B, K, gh, gw) bool, disjoint, in the order of the cuts; empty if there are fewer.
        map: (B, gh, gw) in [0, 1]: the first cut's eigenvector, high on the first object.
    """

    masks: Tensor
    map: Tensor


@torch.no_grad()
def repeated_cuts(
    features: Tensor,
    grid: tuple[int, int],
    count: int,
    tau: float = 0.2,
    eps: float = 1e-5,
    solver: Solver = "auto",
    side: Side = "seed",
) -> RepeatedCuts:
    """Find up to `count` objects in each image from the features of its patches.

    The other arguments are those of `normalized_cut`; `side` is for the first object.

    Raises UsageError and RunError as `normalized_cut` does, and UsageError for a tau below 0, with
    which patches of earlier objects would be connected to all others.
    """
    if tau < 0:
        raise UsageError(f"must be at least 0 for several objects, got {tau}", option="tau")
    batch, n = features.shape[:2]
    device = features.device
    masks = torch.zeros(batch, count, n, dtype=torch.bool, device=device)
    first = torch.zeros(batch, n, device=device)
    left = torch.arange(batch, device=device)
    for k in range(count):
        earlier = masks[left, :k]
        taken = earlier.any(1)
        central = k == 0 and side == "center"
        which: Side = "center" if central else "seed"
        cut = normalized_cut(features[left] * ~taken[..., None], grid, tau, eps, solver, which)
        if central:
            y, found = cut.eigenvector, cut.mask.flatten(1)
        else:
            y, found = _foreground(cut.eigenvector, grid)
        if k == 0:
            first = y
        fresh = _is_new(found, earlier)
        left, found = left[fresh], (found & ~taken)[fresh]
        masks[left, k] = found
        if not len(left):
            break
    return RepeatedCuts(masks.unflatten(-1, grid), unit_range(first.unflatten(-1, grid)))


def _foreground(y_BN: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return y, positive on the object's side, and the object (B, N).

    Args:
        y_BN: its entry of the largest absolute value is positive; zeros for a graph without a cut.
    """
    gh, gw = grid
    corners = [0, gw - 1, (gh - 1) * gw, gh * gw - 1]
    side = y_BN > y_BN.mean(-1, keepdim=True)
    background = side[:, corners].sum(-1, keepdim=True) >= CORNERS
    y = torch.where(background, -y_BN, y_BN)
    side = (side ^ background) & y_BN.any(-1, keepdim=True)
    seed = torch.where(side.any(-1), largest_entry(torch.where(side, y, 0)), -1)
    components, _ = component_of(side.unflatten(-1, grid).cpu().numpy(), seed.cpu().numpy())
    return y, torch.from_numpy(components).flatten(1).to(y.device)


def _is_new(found_BN: Tensor, earlier_BKN: Tensor) -> Tensor:
    """Return whether an object (B,) differs from the earlier ones."""
    if not earlier_BKN.shape[1]:
        return found_BN.any(-1)
    found = found_BN[:, None]
    shared, either = (found & earlier_BKN).sum(-1), (found | earlier_BKN).sum(-1)
    # Exact: products of integers and 0.5.
    apart = (shared <= OVERLAP * either).all(-1)
    large = found_BN.sum(-1) > SMALLEST * found_BN.shape[-1]
    rest = (found_BN & ~earlier_BKN.any(1)).any(-1)
    return apart & large & rest
