"""Segmentation metrics against ground truth, as in TokenCut's `metric.py`, LOST and DINO.

Per image, without void pixels:
- IoU and accuracy (fraction of correct pixels) of the mask against all objects together;
- F of the soft map at 255 thresholds, beta^2 = 0.3 (Achanta et al., 2009);
- Jaccard: the IoU of the best head for each object (or class), mean over them (DINO);
- whether a box overlaps a true one with an IoU of 0.5 or more (CorLoc). The true boxes are given,
  or those around the 8-connected components of each object.

Means are over the images that have the metric: one without an object has no Jaccard, one without a
true box does not count for CorLoc (as in LOST), one with only boxes has no IoU. Max F is the
maximum over thresholds of the mean F.

Boxes are [x0, y0, x1, y1) in pixels.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

VOID = -1
"""The label of pixels that the annotators left undecided."""
BETA2 = 0.3
THRESHOLDS = np.arange(255) / 255
_EIGHT_CONNECTED = np.ones((3, 3), bool)


@dataclass(frozen=True)
class SegmentationScore:
    """The metrics of one image; None where its ground truth does not define one.

    Attributes:
        f_beta: (255,), by threshold.
        jaccard: of the best head; None without heads.
    """

    iou: float | None = None
    accuracy: float | None = None
    located: bool | None = None
    f_beta: NDArray[np.float64] | None = None
    jaccard: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return the score for JSON, without rounding."""
        curve = None if self.f_beta is None else b64encode(self.f_beta.tobytes()).decode()
        located = None if self.located is None else bool(self.located)
        return {**vars(self), "f_beta": curve, "located": located}

    @classmethod
    def from_plain(cls, value: Mapping[str, Any]) -> SegmentationScore:
        """Return the score that `to_plain` has written."""
        curve = value["f_beta"]
        curve = None if curve is None else np.frombuffer(b64decode(curve), np.float64)
        return cls(**{**value, "f_beta": curve})


def score_segmentation(
    mask_hw: NDArray[np.bool_],
    soft_hw: NDArray[np.float64],
    labels_hw: NDArray[np.int32],
    boxes: Iterable[Sequence[int]] = (),
    jaccard: float | None = None,
) -> SegmentationScore:
    """Score a mask, its soft map and boxes against the true labels of an image.

    Args:
        mask_hw: the object.
        soft_hw: its soft map, 0 to 1.
        labels_hw: 0 is background, objects are above it, void is below it.
        boxes: of all objects that were found.
        jaccard: see `best_head_jaccard`.
    """
    known = labels_hw >= 0
    mask, soft, truth = mask_hw[known], soft_hw[known], labels_hw[known] > 0
    return SegmentationScore(
        iou=iou(mask, truth),
        accuracy=float((mask == truth).mean()) if mask.size else None,
        located=is_located(boxes, object_boxes(labels_hw)),
        f_beta=f_beta(soft, truth),
        jaccard=jaccard,
    )


def is_located(boxes: Iterable[Sequence[int]], true: Sequence[Sequence[int]]) -> bool | None:
    """Return whether any box overlaps a true one with an IoU of 0.5; None without a true box."""
    if not true:
        return None
    return any(box_iou(box, b) >= 0.5 for box in boxes for b in true)


def best_head_jaccard(heads_Hhw: NDArray[np.bool_], labels_hw: NDArray[np.int32]) -> float | None:
    """Compute the mean over the objects of the best head's IoU; None without an object."""
    known = labels_hw >= 0
    heads, labels = heads_Hhw[:, known], labels_hw[known]
    ids = [number for number in np.unique(labels) if number > 0]
    if not ids:
        return None
    return float(np.mean([max(iou(head, labels == number) for head in heads) for number in ids]))


def iou(a_hw: NDArray[np.bool_], b_hw: NDArray[np.bool_]) -> float:
    """Compute the intersection over union of two masks; 1 for two empty ones."""
    union = np.count_nonzero(a_hw | b_hw)
    return np.count_nonzero(a_hw & b_hw) / union if union else 1.0


def box_iou(a: Sequence[int], b: Sequence[int]) -> float:
    """Compute the intersection over union of two boxes."""
    shared = 1
    for low, high in ((0, 2), (1, 3)):
        shared *= max(0, min(a[high], b[high]) - max(a[low], b[low]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


def object_boxes(labels_hw: NDArray[np.int32]) -> list[list[int]]:
    """Return the boxes around each 8-connected component of each object."""
    numbers = [number for number in np.unique(labels_hw) if number > 0]
    return [box for number in numbers for box in component_boxes(labels_hw == number)]


def component_boxes(truth_hw: NDArray[np.bool_]) -> list[list[int]]:
    """Return the boxes around each 8-connected component."""
    labels, _ = ndimage.label(truth_hw, _EIGHT_CONNECTED)
    return [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(labels)]


def f_beta(soft: NDArray[np.float64], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute F of `soft > threshold` at every threshold: (255,).

    Precision is 1 if nothing is found, recall is 1 if there is nothing to find.
    """
    # First the thresholds below each pixel's value, then the pixels above each threshold.
    below = np.searchsorted(THRESHOLDS, soft.ravel(), side="left")
    count = len(THRESHOLDS)
    found, right = (
        np.bincount(values, minlength=count + 1)[::-1].cumsum()[-2::-1].astype(np.float64)
        for values in (below, below[truth.ravel()])
    )
    true = np.count_nonzero(truth)
    precision = np.divide(right, found, out=np.ones(count), where=found > 0)
    recall = right / true if true else np.ones(count)
    denominator = BETA2 * precision + recall
    product = (1 + BETA2) * precision * recall
    return np.divide(product, denominator, out=np.zeros(count), where=denominator > 0)


_MEANS = {"mean_iou": "iou", "jaccard": "jaccard", "corloc": "located", "accuracy": "accuracy"}


class SegmentationTotals:
    """Sums of the metrics over images, in constant memory."""

    def __init__(self) -> None:
        self.count = 0
        self._sums = dict.fromkeys(_MEANS, 0.0)
        self._counts = dict.fromkeys(_MEANS, 0)
        self._f_beta, self._curves = np.zeros(len(THRESHOLDS)), 0

    def add(self, one: SegmentationScore) -> None:
        self.count += 1
        for name, field in _MEANS.items():
            value = getattr(one, field)
            if value is not None:
                self._sums[name] += value
                self._counts[name] += 1
        if one.f_beta is not None:
            self._f_beta += one.f_beta
            self._curves += 1

    def means(self) -> dict[str, float | None]:
        """Return the mean metrics as fractions 0 to 1; None for a metric that no image has."""
        means = {
            name: self._sums[name] / count if count else None
            for name, count in self._counts.items()
        }
        max_f = float(self._f_beta.max() / self._curves) if self._curves else None
        accuracy = means.pop("accuracy")
        return {**means, "max_f_beta": max_f, "accuracy": accuracy}
