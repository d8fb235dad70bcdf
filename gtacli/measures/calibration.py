"""Calibration: how well a classifier's probabilities are the frequencies with which it is right.

Guo et al., "On calibration of modern neural networks", 2017, arXiv 1706.04599.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15
"""The bins of the paper."""
_RANGE = (-3.0, 3.0)
"""Natural logarithm of the temperatures that are tried."""


class ReliabilityBin(NamedTuple):
    """The images whose highest probability lies in (low, high].

    Attributes:
        confidence: mean of these probabilities.
        accuracy: fraction of these images that are right.
        images: their number.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    images: int


def reliability(
    confidence: ArrayLike, correct: ArrayLike, bins: int = BINS
) -> list[ReliabilityBin]:
    """Return the bins of equal width that are not empty.

    Args:
        confidence: (n,) highest probability of each image; or the probability of each label of
            each image, where it may have any number.
        correct: (n,) bool: whether the image's class is right; whether it has the label.
    """
    p, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    numbers = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for i in range(bins):
        mine = numbers == i
        if count := int(mine.sum()):
            means = float(p[mine].mean()), float(right[mine].mean())
            found.append(ReliabilityBin(i / bins, (i + 1) / bins, *means, count))
    return found


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, bins: int = BINS
) -> float:
    """Return the expected calibration error (ECE); arguments as of `reliability`."""
    return error_of_bins(reliability(confidence, correct, bins))


def error_of_bins(bins: Sequence[ReliabilityBin]) -> float:
    """Return the mean of |accuracy - confidence| over the bins, weighted by their images."""
    total = sum(one.images for one in bins)
    if not total:
        return math.nan
    return sum(one.images * abs(one.accuracy - one.confidence) for one in bins) / total


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the T > 0 at which softmax(logits / T) has the least cross-entropy.

    The cross-entropy is convex in 1 / T, so that the minimum is the only one. It is kept to
    exp(-3) to exp(3): of images that are all right no T is small enough.

    Args:
        logits: (n, classes), at least one image.
        labels: (n,) class indices.
    """
    values, rows = np.asarray(logits, np.float64), np.asarray(labels)

    def loss(sharpness: float) -> float:
        scaled = log_softmax(values * sharpness, axis=1)
        return -float(scaled[np.arange(len(rows)), rows].mean())

    return _fit(loss)


def fit_label_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the T > 0 at which sigmoid(logits / T) has the least binary cross-entropy.

    As with `fit_temperature` the minimum is the only one, and kept to exp(-3) to exp(3).

    Args:
        logits: (n, classes), at least one image.
        labels: (n, classes) of zeros and ones.
    """
    values, truth = np.asarray(logits, np.float64), np.asarray(labels, np.float64)

    def loss(sharpness: float) -> float:
        scaled = values * sharpness
        return float((np.logaddexp(0, scaled) - truth * scaled).mean())

    return _fit(loss)


def _fit(loss: Callable[[float], float]) -> float:
    """Return the temperature with the least loss, which is a function of 1 / T."""
    found = minimize_scalar(
        lambda log_t: loss(math.exp(-log_t)),
        bounds=_RANGE,
        method="bounded",
        options={"xatol": 1e-5},
    )
    return math.exp(float(found.x))


def lowest_sure(
    confidence: ArrayLike, correct: ArrayLike, accuracy: float
) -> tuple[float, float] | None:
    """Return the lowest probability from which on an accuracy is reached, and the images kept.

    Args:
        confidence: (n,) highest probability of each image.
        correct: (n,) bool.
        accuracy: fraction of the images at or above it that must be right.

    Returns: the probability and the fraction of all images at or above it; None if no probability
    reaches the accuracy.
    """
    p, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    order = np.argsort(-p, kind="stable")
    kept = np.arange(1, len(p) + 1)
    rates: NDArray[np.float64] = np.cumsum(right[order]) / kept
    # Images of one probability are kept or left out together.
    last = np.append(np.diff(p[order]) != 0, True)
    good = np.flatnonzero((rates >= accuracy) & last)
    if not len(good):
        return None
    end = int(good[-1])
    return float(p[order][end]), (end + 1) / len(p)
