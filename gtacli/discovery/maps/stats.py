"""Statistics of a cache, and its damaged or unfinished files."""

from __future__ import annotations

from typing import Any

import numpy as np

from gtacli.discovery.maps.reader import MapCache
from gtacli.discovery.maps.writer import journals, size_of

BINS = 10


def stats(cache: MapCache) -> dict[str, Any]:
    """Compute statistics of the maps, with one file in memory at a time.

    `foreground` is the mean fraction of cells with at least half the maximum; `histogram` counts
    the maps by that fraction, in tenths; `constant` maps show no object, `empty` maps are 0.
    """
    total, constant, empty = 0.0, 0, 0
    histogram = np.zeros(BINS, np.int64)
    files = 0
    for part in cache.parts():
        files += 1
        flat = part["map"].reshape(len(part), -1)
        high, low = flat.max(1), flat.min(1)
        fraction = (flat >= 128).mean(1)
        total += float(fraction.sum())
        constant += int((high == low).sum())
        empty += int((high == 0).sum())
        tenths = np.minimum((fraction * BINS).astype(int), BINS - 1)
        histogram += np.bincount(tenths, minlength=BINS)
    manifest = cache.manifest.model_dump(mode="json")
    size = size_of(cache.folder)
    return {
        "cache": str(cache.folder),
        "images": cache.count_images(),
        "maps": len(cache),
        "files": files,
        "bytes": size,
        "bytes_a_map": size / len(cache) if len(cache) else None,
        **{key: manifest[key] for key in ("model", "fingerprint", "backend", "options")},
        **{key: manifest[key] for key in ("image_size", "grid", "precision")},
        "foreground": total / len(cache) if len(cache) else None,
        "constant": constant,
        "empty": empty,
        "histogram": histogram.tolist(),
        "damaged": [str(file) for file in cache.damaged],
        "unfinished": [str(file) for file in journals(cache.folder)],
    }
