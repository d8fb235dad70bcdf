"""`gta probe retrieval` by class: whether the nearest images have the query's class.

Images are ranked by the cosine of their features. For each query

    AP = mean over the relevant images of (relevant ones up to its rank) / (its rank)
    recall@k = 1 if one of the k nearest is relevant

and the metrics are means over the queries, without those that have no relevant image. See
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

from gtacli.errors import GtaError, RunError, UsageError
from gtacli.measures.statistics import mean_interval
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.evaluation import ProbeData, ProbeResult, accuracy_metrics

RECALLS = (1, 5, 10)
NUMBERS = 1 << 23
"""Cosines in memory at a time."""


class Ranking(NamedTuple):
    """The places of the relevant images in each query's ranking.

    Attributes:
        precision: float64 (Q,), AP of each query, NaN without a relevant image.
        first: int64 (Q,), the rank of the first relevant image, from 0; G if there is none.
    """

    precision: NDArray[np.float64]
    first: NDArray[np.int64]


def retrieval(
    data: ProbeData,
    model: LoadedModel,
    gallery: Literal["test", "train"] = "test",
    recalls: Sequence[int] = RECALLS,
) -> ProbeResult:
    """Search the other test images, or the training images, for the class of each test image.

    For the metrics see `results.RetrievalResult`.
    """
    if gallery == "train" and not data.splits.train:
        raise UsageError("the data has no training images to search among", option="gallery")
    used = (data.splits.test,) if gallery == "test" else (data.splits.test, data.splits.train)
    test, *others = data.extract_all(model, used)
    searched = others[0] if others else test
    device = data.cache.compute.device
    ranking = rank_gallery(
        test.values.to(device),
        test.labels.to(device),
        searched.values.to(device),
        searched.labels.to(device),
        among_themselves=gallery == "test",
    )
    counted = ~np.isnan(ranking.precision)
    if not counted.any():
        raise GtaError("no image of the gallery has the class of a test image")
    precision, first = ranking.precision[counted], ranking.first[counted]
    recalled = {f"recall@{k}": first < k for k in recalls}
    metrics: dict[str, Any] = {
        "map": float(precision.mean()),
        "map_interval": [*mean_interval(precision)],
        "gallery": gallery,
        "n_gallery": len(searched) - (gallery == "test"),
        "n_queries": len(precision),
    }
    for name, found in recalled.items():
        metrics |= accuracy_metrics(name, found)
    n_train = len(searched) if gallery == "train" else 0
    return ProbeResult(metrics, n_train, len(test), test.keys, {"map": precision, **recalled})


@torch.no_grad()
def rank_gallery(
    queries: Tensor, labels: Tensor, gallery: Tensor, gallery_labels: Tensor, among_themselves: bool
) -> Ranking:
    """Rank the gallery for each query by cosine; among equal ones the earlier comes first.

    Args:
        queries: (Q, C); labels: int64 (Q,).
        gallery: (G, C); gallery_labels: int64 (G,).
        among_themselves: both are the same images, and none finds itself.
    """
    precision, first = [], []
    start = 0
    for order in sort_gallery(queries, gallery, among_themselves):
        own = labels[start : start + len(order), None]
        relevant = gallery_labels[order] == own
        ranks = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
        up_to = relevant.cumsum(1)
        total = (up_to.double() / ranks * relevant).sum(1)
        precision.append((total / relevant.sum(1)).cpu())  # 0 / 0 without a relevant image
        first.append((up_to == 0).sum(1).cpu())
        start += len(order)
    return Ranking(torch.cat(precision).numpy(), torch.cat(first).numpy())


def sort_gallery(
    queries: Tensor, gallery: Tensor, among_themselves: bool = False
) -> Iterator[Tensor]:
    """Yield the gallery's indices by descending cosine, int64 (some, G), some queries at a time.

    If both are the same images, without the query itself. Raises RunError for features that are not
    finite.
    """
    queries, gallery = (F.normalize(x.float(), dim=1) for x in (queries, gallery))
    if not (queries.isfinite().all() and gallery.isfinite().all()):
        raise RunError("some features are not finite (NaN or infinite)")
    rows = max(1, NUMBERS // max(1, len(gallery)))
    for start in range(0, len(queries), rows):
        cosines = queries[start : start + rows] @ gallery.T
        if among_themselves:
            cosines.diagonal(start).fill_(-torch.inf)
        order = cosines.sort(dim=1, descending=True, stable=True).indices
        yield order[:, :-1] if among_themselves else order
