"""`gta probe knn`: DINO's weighted k-NN classifier, one search for all k and temperatures.

The training split votes on the test split; see `gtacli.measures.neighbors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gtacli.measures.neighbors import (
    TEMPERATURE,
    Hits,
    K,
    Neighbors,
    evaluate_knn,
    find_neighbors,
)
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.cache import Features
from gtacli.probing.features.evaluation import ProbeData, ProbeResult, accuracy_metrics, to_numpy


def knn(
    data: ProbeData,
    model: LoadedModel,
    ks: Sequence[int] = K,
    temperatures: Sequence[float] = (TEMPERATURE,),
    main_k: int = 20,
) -> ProbeResult:
    """Compute the k-NN accuracy on the test images; for the metrics see `results.KnnResult`.

    `knn` uses the first temperature; `top1` and `top5` are those of `main_k`, one of `ks`, too.
    """
    train, test = data.extract_all(model, (data.splits.train, data.splits.test))
    found = _find_neighbors(data, train, test, max(ks))
    classes = len(data.splits.classes)
    by_temperature = {
        t: evaluate_knn(found, train.labels, test.labels, classes, ks, t) for t in temperatures
    }
    by_k = by_temperature[temperatures[0]]
    top1 = {str(k): accuracy_metrics("top1", to_numpy(hits.top1)) for k, hits in by_k.items()}
    metrics: dict[str, Any] = {
        "knn": {k: one["top1"] for k, one in top1.items()},
        "knn_interval": {k: one["top1_interval"] for k, one in top1.items()},
        "k": main_k,
        "temperature": temperatures[0],
        **accuracy_metrics("top1", to_numpy(by_k[main_k].top1)),
        **accuracy_metrics("top5", to_numpy(by_k[main_k].top5)),
    }
    if len(temperatures) > 1:
        metrics["temperatures"] = {f"{t:g}": _accuracies(h) for t, h in by_temperature.items()}
    per_image = {f"knn@{k}": to_numpy(hits.top1) for k, hits in by_k.items()}
    per_image |= {"top1": to_numpy(by_k[main_k].top1), "top5": to_numpy(by_k[main_k].top5)}
    return ProbeResult(metrics, len(train), len(test), test.keys, per_image)


def _find_neighbors(data: ProbeData, train: Features, test: Features, k: int) -> Neighbors:
    """Find the nearest training images of each test image; processes share the test images."""
    processes, device = data.cache.processes, data.cache.compute.device
    first, last = (len(test) * (processes.rank + i) // processes.size for i in (0, 1))
    bank, queries = train.values, test.values[first:last]
    found = find_neighbors(queries, bank, k, device=device)
    pieces = processes.gather((found.similarities.cpu(), found.indices.cpu()))
    return Neighbors(*map(torch.cat, zip(*pieces, strict=True)))


def _accuracies(by_k: dict[int, Hits]) -> dict[str, float]:
    return {str(k): float(hits.top1.double().mean()) for k, hits in by_k.items()}
