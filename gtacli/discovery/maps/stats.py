"""Statistics of a cache, and its damaged or unfinished files."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

import numpy as np

from gtacli.discovery.maps.folder import journals, size_of
from gtacli.discovery.maps.reader import MapCache
from gtacli.runtime.results import Doc

BINS = 10


class MapStatistics(TypedDict):
    """The result of `gta maps stats`."""

    cache: Annotated[str, Doc("folder of the maps")]
    images: Annotated[int, Doc("images that have a map, equal ones counted once")]
    maps: Annotated[int, Doc("maps in the cache")]
    files: Annotated[int, Doc("files of maps")]
    bytes: Annotated[int, Doc("size of the cache", "B")]
    bytes_a_map: Annotated[float | None, Doc("its share of each map; null without maps", "B")]
    model: Annotated[str, Doc("network that found the objects")]
    fingerprint: Annotated[str, Doc("digest of its weights")]
    backend: Annotated[str, Doc("discovery back-end")]
    options: Annotated[dict[str, Any], Doc("options of the back-end")]
    image_size: Annotated[list[int], Doc("[height, width] of the network's input", "px")]
    grid: Annotated[list[int], Doc("[rows, columns] of a map")]
    precision: Annotated[str, Doc("arithmetic of the network")]
    foreground: Annotated[float | None, Doc("mean fraction of cells at 0.5 or more")]
    constant: Annotated[int, Doc("maps that show no object: all values are equal")]
    empty: Annotated[int, Doc("maps of zeros, which are constant too")]
    histogram: Annotated[list[int], Doc("number of maps by that fraction, in tenths")]
    damaged: Annotated[list[str], Doc("files that do not match their checksum")]
    unfinished: Annotated[list[str], Doc("journals of running or interrupted commands")]


def stats(cache: MapCache) -> MapStatistics:
    """Compute statistics of the maps, with one file in memory at a time."""
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
        "model": manifest["model"],
        "fingerprint": manifest["fingerprint"],
        "backend": manifest["backend"],
        "options": manifest["options"],
        "image_size": manifest["image_size"],
        "grid": manifest["grid"],
        "precision": manifest["precision"],
        "foreground": total / len(cache) if len(cache) else None,
        "constant": constant,
        "empty": empty,
        "histogram": histogram.tolist(),
        "damaged": [str(file) for file in cache.damaged],
        "unfinished": [str(file) for file in journals(cache.folder)],
    }
