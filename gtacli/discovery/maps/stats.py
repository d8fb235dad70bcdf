"""Figures on a cache, and what it lacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from gtacli.discovery.maps.digests import DigestTable
from gtacli.discovery.maps.reader import MapCache
from gtacli.discovery.maps.writer import journals, size_of

BINS = 10


def stats(cache: MapCache) -> dict[str, Any]:
    """What the maps are and how they are distributed; in the memory of one file.

    `foreground` is the share of cells of at least half the maximum, in the mean; `histogram` counts
    the maps by that share, in tenths; `constant` ones show no object, `empty` ones are 0.
    """
    total, constant, empty = 0.0, 0, 0
    histogram = np.zeros(BINS, np.int64)
    for part in cache.parts:
        flat = part["map"].reshape(len(part), -1)
        high, low = flat.max(1), flat.min(1)
        share = (flat >= 128).mean(1)
        total += float(share.sum())
        constant += int((high == low).sum())
        empty += int((high == 0).sum())
        histogram += np.bincount(np.minimum((share * BINS).astype(int), BINS - 1), minlength=BINS)
    contents = cache.contents
    distinct = int((DigestTable(contents).find(contents) == np.arange(len(contents))).sum())
    kind = cache.kind.model_dump(mode="json")
    size = size_of(cache.folder)
    return {
        "cache": str(cache.folder),
        "images": distinct,
        "maps": len(cache),
        "files": len(cache.parts),
        "bytes": size,
        "bytes_a_map": size / len(cache) if len(cache) else None,
        **{key: kind[key] for key in ("model", "fingerprint", "backend", "options")},
        **{key: kind[key] for key in ("image_size", "grid", "precision")},
        "foreground": total / len(cache) if len(cache) else None,
        "constant": constant,
        "empty": empty,
        "histogram": histogram.tolist(),
        "damaged": [str(file) for file in cache.damaged],
        "unfinished": [str(file) for file in journals(cache.folder)],
    }
