"""Selection of the epoch whose weights are saved.

A few held-out images cannot rank epochs: between epochs of equal merit the accuracy on fifty images
varies by several points, and its maximum is as often an early epoch as a late one. So the latest
epoch within one standard error of the best is saved (the one-standard-error rule of Breiman et al.,
Classification and Regression Trees, 1984). The end of the schedule, where the learning rate is
smallest, is given up only for a loss that the images can measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

SCORES = ("val_top1", "val_map")
"""The metrics of an epoch of which the first one that it has decides which weights are saved."""


def score_of(row: Mapping[str, Any]) -> float | None:
    """Return the metric by which an epoch is chosen; None if it was not measured."""
    return next((row[key] for key in SCORES if row.get(key) is not None), None)


def standard_error(fraction: float, images: int) -> float:
    """Return the standard error of a fraction of `images`.

    It is that of two more hits and two more misses (Agresti and Coull, 1998). So it is not 0 where
    all images are hits, which does not make the accuracy certain.
    """
    n = images + 4
    p = (fraction * images + 2) / n
    return math.sqrt(p * (1 - p) / n)


def is_as_good(score: float, earlier: Iterable[float | None], images: int) -> bool:
    """Return whether a score is within one standard error of the best one so far.

    Because the best epoch itself passes, the latest one that passes among all epochs does so
    against the best of all.

    A mean average precision is about the mean of a precision over all labels of the images, whose
    variance is at most that of a fraction: so with them for `images` its error is not larger.

    Args:
        score: of an epoch, a fraction of `images`.
        earlier: scores of the epochs before it; None: not measured.
    """
    best = max([score, *(s for s in earlier if s is not None)])
    return score >= best - standard_error(best, images)
