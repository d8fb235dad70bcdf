"""Weights that guide a masked autoencoder to objects: AttG-MAE (Sick et al., arXiv 2402.15172).

    L = mean over the masked patches of  gamma * exp(M_norm / tau) * error

M_norm is an object map (TokenCut's, a model's attention, ...) of the very view that the student
sees, on its patch grid, stretched to [0, 1] view by view. The paper gives this form and says that
tau follows a half-cycle cosine. Ours, because the paper leaves it open: the stretching per view,
and gamma, which by default makes the weights of a batch 1 on average, so that the step does not
grow as tau falls.

Everything here is fp32, whatever the networks compute in. Shapes: B images, N patches, M of them
masked (predicted).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import NamedTuple

import torch
from torch import Tensor

from gtacli.models.patches import take
from gtacli.runtime.distribution import ALONE, Processes

# Maps come in steps of 1/255; what differs by less is a rounding error of its resampling.
_FLAT = 1e-5


@dataclass(frozen=True)
class Guidance:
    """How maps weigh the error.

    Attributes:
        tau: (start, end) of the schedule over the training; twice the same: fixed.
        gamma: a number, or None: the mean weight of a batch is 1.
        shuffle: the control: every map's values on other patches.
    """

    tau: tuple[float, float] = (1.0, 0.5)
    gamma: float | None = None
    shuffle: bool = False


def normalize_maps(maps: Tensor) -> Tensor:
    """M_norm: maps (B, N) with each view's least value at 0 and its greatest at 1.

    A constant map has no object: it counts as 0 everywhere.
    """
    low, high = maps.float().aminmax(dim=1, keepdim=True)
    span = high - low
    return torch.where(span > _FLAT, (maps - low) / span.clamp_min(_FLAT), 0.0)


def shuffle_maps(maps: Tensor, noise: Tensor) -> Tensor:
    """The control: the same values (B, N) on other patches, by noise (B, N) drawn for each view.

    What remains of a gain under it is not the object's doing.
    """
    return take(maps, noise.argsort(1))


def interpolate_cosine(start: float, end: float, progress: float) -> float:
    """A half-cycle cosine from `start` to `end`; progress of the training in [0, 1]."""
    return end + (start - end) * (1 + cos(pi * progress)) / 2


def guided_weights(
    maps: Tensor,
    tau: float,
    gamma: float | None = None,
    images: int | None = None,
    processes: Processes = ALONE,
) -> Tensor:
    """gamma * exp(maps / tau), (B, M) in fp32.

    Args:
        maps: (B, M) M_norm of the masked patches.
        tau: the smaller, the more the object counts; a large one leaves plain MAE.
        gamma: a number; None: what makes the batch's mean weight 1, over all processes. That
            takes one exchange of a number a process, and no tau overflows.
        images: that are real in this process's share of the batch; default all B. A process may
            hold a stand-in while the others have the last images: it counts for nothing.
        processes: that share the batch.
    """
    logits = maps.float() / tau
    if gamma is not None:
        return gamma * logits.exp()
    count = len(maps) if images is None else images
    # The logarithm of the mean weight, from every process's own sum.
    sums = logits.new_full((processes.size,), 0.0)
    counts = torch.zeros_like(sums)
    if count:
        sums[processes.rank] = logits[:count].logsumexp((0, 1))
        counts[processes.rank] = count * logits.shape[1]
    sums, counts = processes.all_reduce(torch.stack([sums, counts])).unbind()
    total = torch.where(counts > 0, sums, -torch.inf).logsumexp(0)
    return (logits - (total - counts.sum().log())).exp()


class RegionErrors(NamedTuple):
    """Means over the images; `fg / fg_mass` is the error inside the object, `recon_fg`."""

    fg: Tensor
    fg_mass: Tensor
    bg: Tensor
    bg_mass: Tensor


def region_errors(errors: Tensor, maps: Tensor) -> RegionErrors:
    """The reconstruction's error inside and outside the object, unweighted by the loss.

    A patch counts for the inside by its map's value and for the outside by the rest of it: no
    threshold to choose. Divide sums over an epoch, not batch by batch: a map may be 0 everywhere.

    Args:
        errors: (B, M) of the masked patches.
        maps: (B, M) M_norm there, not shuffled.
    """
    e, m = errors.detach().float(), maps.float()
    parts = (e * m, m, e * (1 - m), 1 - m)
    return RegionErrors(*(part.mean() for part in parts))
