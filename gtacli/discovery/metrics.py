"""How well masks fit ground truth, as TokenCut's `metric.py` and DINO's evaluation count.

Per image: IoU, accuracy (share of pixels on the right side), precision and recall of the soft map
at 255 thresholds, the best head's IoU (DINO's Jaccard; a ground-truth mask is one object), and
whether the box meets a true one with an IoU of 0.5 or more (CorLoc; the true boxes are those around
the mask's 8-connected components). Means are over images; max F is the maximum over thresholds of
the mean F, beta^2 = 0.3 (Achanta et al., 2009).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BETA2 = 0.3
THRESHOLDS = np.arange(255) / 255
_EIGHT_CONNECTED = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Score:
    """Of one image.

    Attributes:
        f_beta: (255,), one a threshold.
        jaccard: of the best head; None without heads.
    """

    iou: float
    accuracy: float
    located: bool
    f_beta: NDArray[np.float64]
    jaccard: float | None


def score(
    mask_hw: NDArray[np.bool_],
    box: list[int] | None,
    soft_hw: NDArray[np.float64],
    truth_hw: NDArray[np.bool_],
    heads_Hhw: NDArray[np.bool_] | None = None,
) -> Score:
    """What is found in an image against its true mask."""
    return Score(
        iou=iou(mask_hw, truth_hw),
        accuracy=float((mask_hw == truth_hw).mean()),
        located=box is not None and any(box_iou(box, b) >= 0.5 for b in true_boxes(truth_hw)),
        f_beta=f_beta(soft_hw, truth_hw),
        jaccard=None if heads_Hhw is None else max(iou(head, truth_hw) for head in heads_Hhw),
    )


def iou(a_hw: NDArray[np.bool_], b_hw: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 for two empty masks."""
    union = np.count_nonzero(a_hw | b_hw)
    return np.count_nonzero(a_hw & b_hw) / union if union else 1.0


def box_iou(a: list[int], b: list[int]) -> float:
    """Of boxes [x0, y0, x1, y1)."""
    shared = 1
    for low, high in ((0, 2), (1, 3)):
        shared *= max(0, min(a[high], b[high]) - max(a[low], b[low]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def true_boxes(truth_hw: NDArray[np.bool_]) -> list[list[int]]:
    """Around each 8-connected component."""
    labels, _ = ndimage.label(truth_hw, _EIGHT_CONNECTED)
    return [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(labels)]


def f_beta(soft_hw: NDArray[np.float64], truth_hw: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(255,) F of `soft > threshold`. Precision of nothing found is 1, so is recall of nothing
    to find."""
    # Thresholds below each pixel's value; then pixels above each threshold.
    below = np.searchsorted(THRESHOLDS, soft_hw.ravel(), side="left")
    count = len(THRESHOLDS)
    found, right = (
        np.bincount(values, minlength=count + 1)[::-1].cumsum()[-2::-1].astype(np.float64)
        for values in (below, below[truth_hw.ravel()])
    )
    true = np.count_nonzero(truth_hw)
    precision = np.divide(right, found, out=np.ones(count), where=found > 0)
    recall = right / true if true else np.ones(count)
    denominator = BETA2 * precision + recall
    product = (1 + BETA2) * precision * recall
    return np.divide(product, denominator, out=np.zeros(count), where=denominator > 0)


class Totals:
    """Sums over images, in constant memory."""

    def __init__(self) -> None:
        self._count = 0
        self._sums = np.zeros(4)
        self._f_beta = np.zeros(len(THRESHOLDS))
        self._heads = False

    def add(self, one: Score) -> None:
        self._count += 1
        self._sums += [one.iou, one.accuracy, one.located, one.jaccard or 0.0]
        self._f_beta += one.f_beta
        self._heads |= one.jaccard is not None

    def means(self) -> dict[str, float | None]:
        """Fractions of 0 to 1; None for what no image has."""
        if not self._count:
            return dict.fromkeys(("mean_iou", "jaccard", "corloc", "max_f_beta", "accuracy"))
        iou_, accuracy, corloc, jaccard = (self._sums / self._count).tolist()
        return {
            "mean_iou": iou_,
            "jaccard": jaccard if self._heads else None,
            "corloc": corloc,
            "max_f_beta": float(self._f_beta.max() / self._count),
            "accuracy": accuracy,
        }
