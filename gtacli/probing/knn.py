"""`gta probe knn`: DINO's weighted k-NN classifier, all k and temperatures of one search.

See `gtacli.neighbours`. The training part is the bank; the test part asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gtacli.models.loading import LoadedModel
from gtacli.neighbours import TEMPERATURE, Hits, K, Neighbours, knn_hits, nearest
from gtacli.probing.bench import Bench, Outcome, accuracy, numpy
from gtacli.probing.features import Features


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
    best = by_temperature[temperatures[0]][main_k]
    figures: dict[str, Any] = {
        "knn": _shares(by_temperature[temperatures[0]]),
        "k": main_k,
        "temperature": temperatures[0],
        **accuracy("top1", best.top1.cpu()),
        **accuracy("top5", best.top5.cpu()),
    }
    if len(temperatures) > 1:
        figures["temperatures"] = {f"{t:g}": _shares(h) for t, h in by_temperature.items()}
    return Outcome(figures, len(train), len(test), test.keys, numpy(best.top1))


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
