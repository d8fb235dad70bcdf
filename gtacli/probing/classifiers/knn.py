"""`gta probe knn`: DINO's weighted k-NN classifier, all k and temperatures of one search.

See `gtacli.measures.neighbors`. The training part is the bank; the test part asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gtacli.measures.neighbors import TEMPERATURE, Hits, K, Neighbours, knn_hits, nearest
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.cache import Features
from gtacli.probing.features.evaluation import Bench, Outcome, accuracy, numpy


def knn(
    bench: Bench,
    model: LoadedModel,
    ks: Sequence[int] = K,
    temperatures: Sequence[float] = (TEMPERATURE,),
    main_k: int = 20,
) -> Outcome:
    """The share of test images whose class their k nearest training images vote for.

    `knn` is of the first temperature, `top1`, `top5` and their intervals also of `main_k`, which
    is one of `ks`.
    """
    train, test = bench.see(model, bench.parts.train), bench.see(model, bench.parts.test)
    found = search(bench, train, test, max(ks))
    classes = len(bench.parts.classes)
    by_temperature = {
        t: knn_hits(found, train.labels, test.labels, classes, ks, t) for t in temperatures
    }
    by_k = by_temperature[temperatures[0]]
    shares = {str(k): accuracy("top1", numpy(hits.top1)) for k, hits in by_k.items()}
    figures: dict[str, Any] = {
        "knn": {k: share["top1"] for k, share in shares.items()},
        "knn_interval": {k: share["top1_interval"] for k, share in shares.items()},
        "k": main_k,
        "temperature": temperatures[0],
        **accuracy("top1", numpy(by_k[main_k].top1)),
        **accuracy("top5", numpy(by_k[main_k].top5)),
    }
    if len(temperatures) > 1:
        figures["temperatures"] = {f"{t:g}": _shares(h) for t, h in by_temperature.items()}
    each = {f"knn@{k}": numpy(hits.top1) for k, hits in by_k.items()}
    each |= {"top1": numpy(by_k[main_k].top1), "top5": numpy(by_k[main_k].top5)}
    return Outcome(figures, len(train), len(test), test.keys, each)


def search(bench: Bench, train: Features, test: Features, k: int) -> Neighbours:
    """The nearest training images of each test image, on the CPU; processes share the work."""
    processes, device = bench.cache.processes, bench.cache.compute.device
    first, last = (len(test) * (processes.rank + i) // processes.size for i in (0, 1))
    bank, queries = train.values, test.values[first:last]
    found = nearest(queries, bank, k, device=device)
    parts = processes.gather((found.similarities.cpu(), found.indices.cpu()))
    return Neighbours(*map(torch.cat, zip(*parts, strict=True)))


def _shares(by_k: dict[int, Hits]) -> dict[str, float]:
    return {str(k): float(hits.top1.double().mean()) for k, hits in by_k.items()}
