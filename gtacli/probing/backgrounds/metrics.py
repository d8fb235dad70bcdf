"""What networks' answers on images with exchanged backgrounds come to.

With a classifier for the images' classes its accuracy on every variant (see `backgrounds`), and

    BG-Gap = accuracy(mixed-same) - accuracy(mixed-rand)

With any network, without labels: `fg_consistency`, the share of images whose answer on mixed-rand
is that on the original; the answer of a classifier is its likeliest class, that of a network
without one the nearest of the other images' originals, by the cosine. And `cosine`, that of an
image's features before and after. Features are what a classifier is given.
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
    paired_bootstrap,
    share_difference,
    unpaired_interval,
    wilson,
)
from gtacli.probing.backgrounds.variants import Variant

T = TypeVar("T")
PAIR: tuple[Variant, Variant] = ("original", "mixed-rand")
GAP: tuple[Variant, Variant] = ("mixed-same", "mixed-rand")
_ROWS = 1024


@dataclass
class Answers:
    """What one network said, by variant and by the image whose object was shown.

    Attributes:
        right: whether it told the class; empty where it cannot.
        likeliest: the likeliest of its own classes; empty without a classifier.
        features: (C,), of the variants in PAIR.
    """

    right: dict[Variant, dict[str, bool]] = field(default_factory=dict)
    likeliest: dict[Variant, dict[str, int]] = field(default_factory=dict)
    features: dict[Variant, dict[str, Tensor]] = field(default_factory=dict)


def figures(answers: Answers) -> dict[str, Any]:
    """The figures of one network.

    Returns:
        `n_test`, images of a variant · `variants`: {name: {"top1", "top1_interval", "n"}}, None
        without classes · `bg_gap` · `n_pairs`, images of which both variants in PAIR were shown ·
        `fg_consistency` and `cosine` over them · `survives`: "class" or "neighbour", what the
        former is about. Each with its 95 % `..._interval`; what cannot be known is None.
    """
    variants = {name: _accuracy([*right.values()]) for name, right in answers.right.items()}
    survived, cosines = _survived(answers), _cosines(answers)
    consistency = _accuracy(survived)
    return {
        "n_test": max([len(cosines), *(shown["n"] for shown in variants.values())]),
        "variants": variants or None,
        "bg_gap": _difference(variants),
        "bg_gap_interval": _gap_interval(answers),
        "n_pairs": len(cosines),
        "fg_consistency": consistency["top1"],
        "fg_consistency_interval": consistency["top1_interval"] if len(survived) else None,
        "survives": "class" if answers.likeliest else "neighbour",
        "cosine": float(cosines.mean()) if len(cosines) else None,
        "cosine_interval": [*mean_interval(cosines)] if len(cosines) > 1 else None,
    }


def compared(answers: Answers, reference: Answers, seed: int = 0) -> dict[str, Difference]:
    """By figure, how much more it is than that of another network on the same images. Figures that
    either lacks are left out, and a gap of variants that show different images."""
    found: dict[str, Difference] = {
        name: share_difference(*_paired(right, reference.right[name]))
        for name, right in answers.right.items()
        if name in reference.right
    }
    gaps = _gap_by_image(answers), _gap_by_image(reference)
    if all(gaps):
        found["bg_gap"] = paired_bootstrap(*_paired(*gaps), seed=seed)
    survived = _survived(answers), _survived(reference)
    if len(survived[0]):
        found["fg_consistency"] = share_difference(*survived)
        found["cosine"] = paired_bootstrap(_cosines(answers), _cosines(reference), seed=seed)
    return found


def _accuracy(right: Sequence[bool] | NDArray[np.bool_]) -> dict[str, Any]:
    n, hits = len(right), int(sum(right))
    return {"top1": hits / n if n else None, "top1_interval": [*wilson(hits, n)], "n": n}


def _difference(variants: Mapping[Variant, dict[str, Any]]) -> float | None:
    if not all(name in variants for name in GAP):
        return None
    same, rand = (variants[name]["top1"] for name in GAP)
    return float(same - rand)


def _gap_interval(answers: Answers) -> list[float] | None:
    """Paired where the two variants are of the same images."""
    if not all(answers.right.get(name) for name in GAP):
        return None
    same, rand = (answers.right[name] for name in GAP)
    if same.keys() == rand.keys():
        return [*share_difference(*_paired(same, rand))[1:3]]
    hits = sum(same.values()), sum(rand.values())
    return [*unpaired_interval(hits, (len(same), len(rand)))]


def _gap_by_image(answers: Answers) -> dict[str, int]:
    """1: right on mixed-same alone, -1: on mixed-rand alone; empty where they are of different
    images."""
    same, rand = (answers.right.get(name, {}) for name in GAP)
    if same.keys() != rand.keys():
        return {}
    return {key: int(right) - int(rand[key]) for key, right in same.items()}


def _survived(answers: Answers) -> NDArray[np.bool_]:
    """(pairs,) whether the answer is the same."""
    before, after = _paired(*(answers.likeliest.get(name, {}) for name in PAIR))
    if not answers.likeliest:
        original, mixed = _features(answers)
        if len(original) < 2:
            return np.zeros(0, bool)
        before, after = _nearest(original, original), _nearest(mixed, original)
    return np.asarray(before == after, bool)


def _cosines(answers: Answers) -> NDArray[np.float64]:
    """(pairs,)"""
    original, mixed = _features(answers)
    return np.asarray((original * mixed).sum(-1).double().numpy())


def _features(answers: Answers) -> tuple[Tensor, Tensor]:
    """(pairs, C) of both variants in PAIR, of length 1."""
    before, after = (answers.features.get(name, {}) for name in PAIR)
    keys = [key for key in before if key in after]
    if not keys:
        return torch.empty(0, 1), torch.empty(0, 1)
    first, second = (
        F.normalize(torch.stack([of[key] for key in keys]), dim=-1) for of in (before, after)
    )
    return first, second


def _nearest(queries: Tensor, images: Tensor) -> NDArray[np.int64]:
    """(N,) which of the other images is nearest to each query; row i of both is the same image."""
    found = []
    for start in range(0, len(queries), _ROWS):
        cosines = queries[start : start + _ROWS] @ images.T
        cosines.diagonal(start).fill_(-torch.inf)
        found.append(cosines.argmax(-1))
    return torch.cat(found).numpy()


def _paired(a: Mapping[str, T], b: Mapping[str, T]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The values of the images that both have, in the same order."""
    keys = [key for key in a if key in b]
    return np.array([a[key] for key in keys]), np.array([b[key] for key in keys])
