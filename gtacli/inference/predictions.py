"""The result of a classification, made of probabilities; without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gtacli.inference.results import ClassProbability, Prediction

THRESHOLD = 0.5
"""Probability above which a label is predicted: it is then more likely present than absent."""
Tta = Literal["none", "flip", "crops"]
"""Test-time augmentation."""


def predictions(
    paths: Sequence[str],
    probabilities: NDArray[np.float32],
    names: Callable[[int], str],
    top: int,
    sure_from: float | None = None,
    threshold: float | None = None,
) -> list[Prediction]:
    """Return the results of images.

    Args:
        probabilities: (B, K).
        names: of the classes, by number.
        top: classes per image.
        sure_from: probability from which on a prediction is sure; None: that is not said.
        threshold: of a model for any number of labels: those above it are predicted; None: the
            model is for one class.
    """
    if threshold is not None:
        return _label_predictions(paths, probabilities, names, top, threshold)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    highest = np.take_along_axis(probabilities, best, 1).tolist()
    rows = zip(paths, best.tolist(), highest, _entropies(probabilities), strict=True)
    return [_result(*row, names, sure_from) for row in rows]


def _label_predictions(
    paths: Sequence[str],
    probabilities: NDArray[np.float32],
    names: Callable[[int], str],
    top: int,
    threshold: float,
) -> list[Prediction]:
    """Return the results of a model for any number of labels."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    found = []
    for path, row, own in zip(paths, probabilities.astype(np.float64), order, strict=True):
        count = max(top, int((row > threshold).sum()))
        ranked: list[ClassProbability] = [
            {"class": names(index), "probability": float(row[index])}
            for index in own[:count].tolist()
        ]
        labels = [one for one in ranked if one["probability"] > threshold]
        entropy = _binary_entropy(row)
        found.append(Prediction(image=path, top=ranked[:top], labels=labels, entropy=entropy))
    return found


def _binary_entropy(p: NDArray[np.float64]) -> float:
    """Return the sum of the entropies of probabilities (K,) in nats."""
    return float(np.sum(_entropies(np.stack([p, 1 - p], 1))))


def _result(
    path: str,
    best: Sequence[int],
    highest: Sequence[float],
    entropy: float,
    names: Callable[[int], str],
    sure_from: float | None,
) -> Prediction:
    ranked: list[ClassProbability] = [
        {"class": names(index), "probability": value}
        for index, value in zip(best, highest, strict=True)
    ]
    found: Prediction = {"image": path, "top": ranked, "entropy": entropy}
    if sure_from is not None:
        found["unsure"] = highest[0] < sure_from
    return found


def _entropies(probabilities: NDArray[Any]) -> Any:
    """Return the entropy of each row in nats."""
    p = probabilities.astype(np.float64)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return (-(p * logs)).sum(1).tolist()
