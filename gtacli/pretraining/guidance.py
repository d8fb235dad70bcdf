"""Object-guided weights of a masked autoencoder's loss: AttG-MAE (arXiv 2402.15172).

    L = mean over the masked patches of  gamma * exp(M_norm / tau) * error

M_norm is an object map (TokenCut's, a model's attention, ...) of the student's view, on its patch
grid, scaled to [0, 1] for each view. The paper (Sick et al.) gives this form and says that tau
follows a half-cycle cosine. Our choices, which the paper leaves open: scaling each view on its own,
and gamma, which by default makes the mean weight of a batch 1, so that the step does not grow as
tau falls.

Everything here is fp32, whatever the precision of the networks. Shapes: B images, N patches, M of
them masked (predicted).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import NamedTuple

import torch
from torch import Tensor

from gtacli.models.patches import take
from gtacli.runtime.distribution import ALONE, Processes

# Maps come in steps of 1/255; smaller differences are rounding errors of their resampling.
_FLAT = 1e-5


@dataclass(frozen=True)
class Guidance:
    """The weighting of the error by maps.

    Attributes:
        tau: temperature at the start and at the end of the training.
        gamma: a number, or None: the mean weight of a batch is 1.
        shuffle: whether the values of each map are moved to other patches (a control experiment).
    """

    tau: tuple[float, float] = (1.0, 0.5)
    gamma: float | None = None
    shuffle: bool = False


def normalize_maps(maps: Tensor) -> Tensor:
    """Scale maps (B, N) so that the smallest value of each is 0 and its largest 1: M_norm.

    A constant map has no object: it becomes 0 everywhere.
    """
    low, high = maps.float().aminmax(dim=1, keepdim=True)
    span = high - low
    return torch.where(span > _FLAT, (maps - low) / span.clamp_min(_FLAT), 0.0)


def shuffle_maps(maps: Tensor, noise: Tensor) -> Tensor:
    """Move the values of maps (B, N) to other patches, by noise (B, N): the control experiment.

    A gain that remains with shuffled maps is not due to the object.
    """
    return take(maps, noise.argsort(1))


def interpolate_cosine(start: float, end: float, progress: float) -> float:
    """Interpolate from `start` to `end` along half a cosine cycle; `progress` is in [0, 1]."""
    return end + (start - end) * (1 + cos(pi * progress)) / 2


def interpolate_linear(start: float, end: float, progress: float) -> float:
    """Interpolate from `start` to `end` along a line; `progress` is in [0, 1]."""
    return start + (end - start) * progress


def guided_weights(
    maps: Tensor,
    tau: float,
    gamma: float | None = None,
    images: int | None = None,
    processes: Processes = ALONE,
) -> Tensor:
    """Return the weights gamma * exp(maps / tau), (B, M) in fp32.

    Args:
        maps: (B, M) M_norm of the masked patches.
        tau: temperature; the smaller, the more the object weighs; a large one gives plain MAE.
        gamma: a number; None: chosen so that the batch's mean weight is 1, over all processes.
            That takes one exchange of a number per process, and no tau overflows.
        images: number of images that count, default all B: 0 for a stand-in (`Batch.stand_in`).
        processes: share the batch.
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
    """The error inside (fg) and outside (bg) the object, as means over the images.

    `fg / fg_mass` is the error inside the object, `recon_fg`.
    """

    fg: Tensor
    fg_mass: Tensor
    bg: Tensor
    bg_mass: Tensor


def region_errors(errors: Tensor, maps: Tensor) -> RegionErrors:
    """Split the reconstruction error, without the loss's weights, into inside and outside.

    A patch counts as inside by the value m of its map and as outside by 1 - m, so there is no
    threshold to choose. Divide sums over an epoch, not single batches: a map may be 0 everywhere.

    Args:
        errors: (B, M) of the masked patches.
        maps: (B, M) M_norm there, not shuffled.
    """
    e, m = errors.detach().float(), maps.float()
    parts = (e * m, m, e * (1 - m), 1 - m)
    return RegionErrors(*(part.mean() for part in parts))
