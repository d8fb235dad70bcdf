"""`gta probe retrieval`: whether images of the same class, or of the same place, are nearest.

Images are ranked by the cosine of their features. Of each query

    AP = mean over the relevant images of (relevant ones up to its rank) / (its rank)
    recall@k = 1 if one of the k nearest is relevant

and the figures are means over the queries; those without any relevant image are left out. See
`revisited` for Oxford and Paris, whose protocol has its own formula.

Shapes: Q queries, G images of the gallery.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gtacli.errors import GtaError, RunError
from gtacli.measures.statistics import mean_interval
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.evaluation import Bench, Outcome, accuracy

RECALLS = (1, 5, 10)
NUMBERS = 1 << 23
"""Cosines at a time."""


class Ranked(NamedTuple):
    """Attributes:
    precision: float64 (Q,), AP of each query, NaN without a relevant image.
    first: int64 (Q,), the rank of the first relevant image, from 0; G where there is none.
    """

    precision: NDArray[np.float64]
    first: NDArray[np.int64]


def retrieval(
    bench: Bench,
    model: LoadedModel,
    gallery: Literal["test", "train"] = "test",
    recalls: Sequence[int] = RECALLS,
) -> Outcome:
    """Every test image asks for those of its class, among the other test images or the training
    images.

    Figures: `map` and `recall@K` with their intervals, `gallery`, `n_gallery`, `n_queries`.
    """
    test = bench.see(model, bench.parts.test)
    searched = test if gallery == "test" else bench.see(model, bench.parts.train)
    device = bench.cache.compute.device
    ranked = rank(
        test.values.to(device),
        test.labels.to(device),
        searched.values.to(device),
        searched.labels.to(device),
        among_themselves=gallery == "test",
    )
    asked = ~np.isnan(ranked.precision)
    if not asked.any():
        raise GtaError("no image of the gallery is of the class of a test image: nothing to find")
    precision, first = ranked.precision[asked], ranked.first[asked]
    found = {f"recall@{k}": first < k for k in recalls}
    figures: dict[str, Any] = {
        "map": float(precision.mean()),
        "map_interval": [*mean_interval(precision)],
        "gallery": gallery,
        "n_gallery": len(searched) - (gallery == "test"),
        "n_queries": len(precision),
    }
    for name, right in found.items():
        figures |= accuracy(name, right)
    n_train = len(searched) if gallery == "train" else 0
    return Outcome(figures, n_train, len(test), test.keys, {"map": precision, **found})


@torch.no_grad()
def rank(
    queries: Tensor, labels: Tensor, gallery: Tensor, gallery_labels: Tensor, among_themselves: bool
) -> Ranked:
    """Ranks the gallery for each query by cosine; of equal ones the earlier comes first.

    Args:
        queries: (Q, C); labels: int64 (Q,).
        gallery: (G, C); gallery_labels: int64 (G,).
        among_themselves: both are the same images, and none finds itself.
    """
    precision, first = [], []
    start = 0
    for order in orders(queries, gallery, among_themselves):
        own = labels[start : start + len(order), None]
        relevant = gallery_labels[order] == own
        ranks = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
        up_to = relevant.cumsum(1)
        total = (up_to.double() / ranks * relevant).sum(1)
        precision.append((total / relevant.sum(1)).cpu())  # 0 / 0 where there is none
        first.append((up_to == 0).sum(1).cpu())
        start += len(order)
    return Ranked(torch.cat(precision).numpy(), torch.cat(first).numpy())


def orders(queries: Tensor, gallery: Tensor, among_themselves: bool = False) -> Iterator[Tensor]:
    """int64 (some, G) the gallery's images by falling cosine, some queries at a time; without the
    query itself where both are the same images. Raises RunError for features that are not finite.
    """
    asked, searched = (F.normalize(x.float(), dim=1) for x in (queries, gallery))
    if not (asked.isfinite().all() and searched.isfinite().all()):
        raise RunError("features: some are not finite (NaN or infinite), so nothing is near them")
    rows = max(1, NUMBERS // max(1, len(searched)))
    for start in range(0, len(asked), rows):
        cosines = asked[start : start + rows] @ searched.T
        if among_themselves:
            cosines.diagonal(start).fill_(-torch.inf)
        order = cosines.sort(dim=1, descending=True, stable=True).indices
        yield order[:, :-1] if among_themselves else order
