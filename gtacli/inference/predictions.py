"""The result of a classification, made of probabilities; without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gtacli.inference.results import ClassProbability, Prediction

Tta = Literal["none", "flip", "crops"]
"""Test-time augmentation."""


def predictions(
    paths: Sequence[str],
    probabilities: NDArray[np.float32],
    names: Callable[[int], str],
    top: int,
    sure_from: float | None = None,
) -> list[Prediction]:
    """Return the results of images.

    Args:
        probabilities: (B, K).
        names: of the classes, by number.
        top: classes per image.
        sure_from: probability from which on a prediction is sure; None: that is not said.
    """
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    highest = np.take_along_axis(probabilities, best, 1).tolist()
    rows = zip(paths, best.tolist(), highest, _entropies(probabilities), strict=True)
    return [_result(*row, names, sure_from) for row in rows]


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


def _entropies(probabilities: NDArray[np.float32]) -> Any:
    """Return the entropy of each row in nats."""
    p = probabilities.astype(np.float64)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return (-(p * logs)).sum(1).tolist()
