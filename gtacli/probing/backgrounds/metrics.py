"""Background robustness of models, from their predictions for images with exchanged backgrounds.

With a classifier for the images' classes its accuracy on every variant (see `variants`), and

    BG-Gap = accuracy(mixed-same) - accuracy(mixed-rand)

With any model, without labels: `fg_consistency`, the fraction of images with the same prediction on
mixed-rand as on the original; a classifier predicts its most likely class, another model the
nearest of the other images' originals by cosine. And `cosine`, between an image's features before
and after. Features are the input of the classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gtacli.measures.statistics import (
    Difference,
    mean_interval,
    newcombe_interval,
    paired_fraction_difference,
    paired_mean_difference,
    wilson_interval,
)
from gtacli.probing.backgrounds.variants import Variant
from gtacli.probing.results import BackgroundMetrics, VariantAccuracy

T = TypeVar("T")
PAIR: tuple[Variant, Variant] = ("original", "mixed-rand")
GAP: tuple[Variant, Variant] = ("mixed-same", "mixed-rand")
_ROWS = 1024


@dataclass
class VariantPredictions:
    """A model's predictions, by variant and by the image whose object is shown.

    Attributes:
        correct: whether the class is right; empty if the model does not know the classes.
        top_class: the most likely of the model's own classes; empty without a classifier.
        features: (C,), of the variants in PAIR.
    """

    correct: dict[Variant, dict[str, bool]] = field(default_factory=dict)
    top_class: dict[Variant, dict[str, int]] = field(default_factory=dict)
    features: dict[Variant, dict[str, Tensor]] = field(default_factory=dict)


def background_metrics(predictions: VariantPredictions) -> BackgroundMetrics:
    """Compute the metrics of one model, with 95 % intervals; None for what is undefined."""
    variants: dict[str, VariantAccuracy] = {
        name: _accuracy([*correct.values()]) for name, correct in predictions.correct.items()
    }
    consistent, cosines = _is_consistent(predictions), _cosines(predictions)
    consistency = _accuracy(consistent)
    return {
        "n_test": max([len(cosines), *(one["n"] for one in variants.values())]),
        "variants": variants or None,
        "bg_gap": _bg_gap(variants),
        "bg_gap_interval": _gap_interval(predictions),
        "n_pairs": len(cosines),
        "fg_consistency": consistency["top1"],
        "fg_consistency_interval": consistency["top1_interval"] if len(consistent) else None,
        "survives": "class" if predictions.top_class else "neighbour",
        "cosine": float(cosines.mean()) if len(cosines) else None,
        "cosine_interval": [*mean_interval(cosines)] if len(cosines) > 1 else None,
    }


def compare_predictions(
    predictions: VariantPredictions, reference: VariantPredictions, seed: int = 0
) -> dict[str, Difference]:
    """Test each metric against another model's on the same images.

    Without metrics that either lacks, and without a gap between variants of different images.
    """
    found: dict[str, Difference] = {
        name: paired_fraction_difference(*_paired(correct, reference.correct[name]))
        for name, correct in predictions.correct.items()
        if name in reference.correct
    }
    gaps = _gap_by_image(predictions), _gap_by_image(reference)
    if all(gaps):
        found["bg_gap"] = paired_mean_difference(*_paired(*gaps), seed=seed)
    # The same class, and the same nearest image, are two metrics.
    if bool(predictions.top_class) == bool(reference.top_class):
        consistent = _is_consistent(predictions), _is_consistent(reference)
        if len(consistent[0]):
            found["fg_consistency"] = paired_fraction_difference(*consistent)
    cosines = _cosines(predictions), _cosines(reference)
    if len(cosines[0]):
        found["cosine"] = paired_mean_difference(*cosines, seed=seed)
    return found


def _accuracy(correct: Sequence[bool] | NDArray[np.bool_]) -> VariantAccuracy:
    n, hits = len(correct), int(sum(correct))
    return {
        "top1": hits / n if n else None,
        "top1_interval": [*wilson_interval(hits, n)],
        "n": n,
    }


def _bg_gap(variants: Mapping[str, VariantAccuracy]) -> float | None:
    if not all(name in variants for name in GAP):
        return None
    same, rand = (variants[name]["top1"] for name in GAP)
    assert same is not None
    assert rand is not None
    return float(same - rand)


def _gap_interval(predictions: VariantPredictions) -> list[float | None] | None:
    """Compute the gap's interval, paired if both variants are of the same images."""
    if not all(predictions.correct.get(name) for name in GAP):
        return None
    same, rand = (predictions.correct[name] for name in GAP)
    if same.keys() == rand.keys():
        return [*paired_fraction_difference(*_paired(same, rand))[1:3]]
    hits = sum(same.values()), sum(rand.values())
    return [*newcombe_interval(hits, (len(same), len(rand)))]


def _gap_by_image(predictions: VariantPredictions) -> dict[str, int]:
    """Return 1 for an image that is right only on mixed-same, -1 only on mixed-rand, else 0.

    Empty if the two variants are of different images.
    """
    same, rand = (predictions.correct.get(name, {}) for name in GAP)
    if same.keys() != rand.keys():
        return {}
    return {key: int(correct) - int(rand[key]) for key, correct in same.items()}


def _is_consistent(predictions: VariantPredictions) -> NDArray[np.bool_]:
    """Return whether the prediction is the same on both variants: (pairs,)."""
    before, after = _paired(*(predictions.top_class.get(name, {}) for name in PAIR))
    if not predictions.top_class:
        original, mixed = _features(predictions)
        if len(original) < 2:
            return np.zeros(0, bool)
        before, after = _nearest_other(original, original), _nearest_other(mixed, original)
    return np.asarray(before == after, bool)


def _cosines(predictions: VariantPredictions) -> NDArray[np.float64]:
    """Compute the cosine between the features of both variants: (pairs,)."""
    original, mixed = _features(predictions)
    return np.asarray((original * mixed).sum(-1).double().numpy())


def _features(predictions: VariantPredictions) -> tuple[Tensor, Tensor]:
    """Return the normalized features (pairs, C) of both variants in PAIR."""
    before, after = (predictions.features.get(name, {}) for name in PAIR)
    keys = [key for key in before if key in after]
    if not keys:
        return torch.empty(0, 1), torch.empty(0, 1)
    first, second = (
        F.normalize(torch.stack([one[key] for key in keys]), dim=-1) for one in (before, after)
    )
    return first, second


def _nearest_other(queries: Tensor, images: Tensor) -> NDArray[np.int64]:
    """Return the index (N,) of the other image nearest to each query.

    Row i of both is the same image.
    """
    found = []
    for start in range(0, len(queries), _ROWS):
        cosines = queries[start : start + _ROWS] @ images.T
        cosines.diagonal(start).fill_(-torch.inf)
        found.append(cosines.argmax(-1))
    return torch.cat(found).numpy()


def _paired(a: Mapping[str, T], b: Mapping[str, T]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the values of the images that both have, in the same order."""
    keys = [key for key in a if key in b]
    return np.array([a[key] for key in keys]), np.array([b[key] for key in keys])
