"""Metrics of classifications into any number of classes per image, by torchmetrics.

    mAP       mean over classes of the average precision (area under the precision-recall curve)
    F1        harmonic mean of precision and recall of the predictions above a threshold; macro:
              mean over classes, micro: of the predictions for all classes together

Classes that no image has do not count in means over classes: they have no recall.

Shapes: N images, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 22
"""Numbers of a matrix at a time."""

THRESHOLD = 0.5
"""Probability from which on a class is predicted: it is then more likely present than absent."""


class ClassScore(NamedTuple):
    """The metrics of one class, and the number of images that have it."""

    ap: float
    f1: float
    images: int


class LabelScores(NamedTuple):
    """The metrics of all classes; `by_class` has None for a class that no image has."""

    map: float | None
    f1_macro: float | None
    f1_micro: float | None
    by_class: tuple[ClassScore | None, ...]


def score_labels(logits: Tensor, labels: Tensor, threshold: float = THRESHOLD) -> LabelScores:
    """Return the metrics of logits (N, K) for labels (N, K) of zeros and ones."""
    from torchmetrics.functional.classification import (  # it takes seconds
        multilabel_average_precision,
        multilabel_f1_score,
    )

    counts = labels.long().sum(0)
    seen = counts > 0
    if not seen.any():
        return LabelScores(None, None, None, (None,) * labels.shape[1])
    # In double precision, in which fewer large logits become the same probability.
    chances, truth = logits.double().sigmoid(), labels.long()
    own, classes = (chances[:, seen], truth[:, seen]), int(seen.sum())
    # Not validated, since that refuses a single class.
    ap = multilabel_average_precision(*own, classes, average=None, validate_args=False)
    f1 = multilabel_f1_score(*own, classes, threshold, average=None, validate_args=False)
    ap, f1 = ap.double().reshape(-1), f1.double().reshape(-1)
    micro = multilabel_f1_score(
        chances, truth, labels.shape[1], threshold, average="micro", validate_args=False
    )
    by_class: list[ClassScore | None] = [None] * labels.shape[1]
    places = seen.nonzero().flatten().tolist()
    for place, precision, harmonic in zip(places, ap.tolist(), f1.tolist(), strict=True):
        by_class[place] = ClassScore(precision, harmonic, int(counts[place]))
    return LabelScores(float(ap.mean()), float(f1.mean()), float(micro), tuple(by_class))


def best_threshold(probabilities: Tensor, labels: Tensor) -> float | None:
    """Return the probability above which predictions have the highest F1 of all labels together.

    It lies in the middle between the least probability that is predicted and the greatest that is
    not. One threshold for all classes counts on all their labels: one for each class would be
    chosen by the few images that have it.

    Args:
        probabilities: (N, K).
        labels: (N, K) of zeros and ones.

    Returns: None where no image has a label.
    """
    order = probabilities.flatten().double().sort(descending=True)
    chances, hits = order.values, labels.flatten()[order.indices].double().cumsum(0)
    if not hits.numel() or not hits[-1]:
        return None
    predicted = torch.arange(1, len(hits) + 1, dtype=torch.float64)
    f1 = 2 * hits / (predicted + hits[-1])
    below = torch.cat([chances[1:], chances.new_zeros(1)])
    f1[chances == below] = 0.0  # equal probabilities are predicted together
    best = int(f1.argmax())
    lower, upper = float(below[best]), float(chances[best])
    middle = (lower + upper) / 2
    return middle if middle < upper else lower  # adjacent floating-point numbers have no middle


def map_interval(
    logits: Tensor, labels: Tensor, seed: int = 0, draws: int = 1000, level: float = 0.95
) -> list[float] | None:
    """Return a bootstrap interval [low, high] of the mAP; None where no image has a label.

    Images are drawn with replacement, all classes with the same ones. A class that no drawn image
    has does not count in that draw.
    """
    n, rng = len(labels), np.random.default_rng(seed)
    step = max(1, _BLOCK // max(1, n))
    means = []
    for start in range(0, draws, step):
        drawn = rng.multinomial(n, np.full(n, 1 / n), min(step, draws - start))
        means.append(_drawn_maps(logits, labels, torch.from_numpy(drawn).double()))
    found = torch.cat(means)
    if not len(found):
        return None
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return torch.quantile(found, ends).tolist()


def _drawn_maps(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the mAP of each draw that has an image with a label; weights: (draws, N) counts."""
    total, counted = torch.zeros(len(weights), dtype=torch.float64), torch.zeros(len(weights))
    for scores, truth in zip(logits.T, labels.T, strict=True):
        if not truth.any():
            continue
        order = scores.argsort(descending=True, stable=True)
        own = weights[:, order]
        hits = own * truth[order]
        precision = hits.cumsum(1) / own.cumsum(1).clamp_min(1)
        images = hits.sum(1)
        total += (hits * precision).sum(1) / images.clamp_min(1)
        counted += images > 0
    return (total / counted)[counted > 0]


def ranking_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the average precision (M,) of each image's ranking of the classes.

    That is the mean over its labels of the fraction of labels among the classes ranked as high or
    higher. Its mean is the label ranking average precision. Images without a label have none.

    Args:
        scores: (N, K).
        labels: (N, K) zeros and ones.
    """
    some = labels.sum(1) > 0
    order = scores[some].argsort(dim=1, descending=True, stable=True)
    hits = labels[some].double().gather(1, order)
    ranks = torch.arange(1, labels.shape[1] + 1, dtype=torch.float64, device=labels.device)
    return (hits * hits.cumsum(1) / ranks).sum(1) / hits.sum(1)
