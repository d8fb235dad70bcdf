"""The maps as bytes of the page: which of them fit, and their encoding.

A value becomes uint8: the square root of its position between the minimum and the maximum of its
block. The root assigns more levels to low values, which are the most frequent in attention.
Deflate does not compress such bytes further.

One model's maps of one image: minimum and maximum of each block (float32, little-endian), then
the maps (blocks, heads, patches). If the page has room, the attention of all patches follows in
the same form: minimum and maximum (1 or each block), then the rows (1 or blocks, N, N).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gtacli.report.attention import ModelMaps
from gtacli.report.previews import BASE64

RANGE = 8
"""Bytes of a minimum and a maximum."""
CLS_FRACTION = 0.65
"""Maximum fraction of the bytes for the maps of the CLS token; the patches' rows get the rest."""
_STEPS = (1, 2, 3, 4, 6, 12, 24, 48)


@dataclass(frozen=True)
class MapSelection:
    """The maps that the page contains of each model and image.

    Attributes:
        step: every `step`-th block, counted from the last.
        heads: "each": the map of each head; "pooled": only mean and maximum over heads.
        rows: number of images with the rows of all patches in the last block.
        deep: number of images with these rows in every selected block.
    """

    step: int
    heads: Literal["each", "pooled"]
    rows: int
    deep: int = 0

    def blocks(self, depth: int) -> tuple[int, ...]:
        """Return the indices of the selected blocks of a model with `depth` blocks."""
        return tuple(sorted(range(depth - 1, -1, -self.step)))


def select_maps(models: Sequence[ModelMaps], images: int, size: float) -> MapSelection:
    """Return the largest selection that fits into `size` bytes of the page."""
    room = size / BASE64
    chosen = next(
        (s for s in _selections() if _cls_bytes(models, s) * images <= CLS_FRACTION * room),
        MapSelection(_STEPS[-1], "pooled", 0),
    )
    left = room - _cls_bytes(models, chosen) * images
    last = sum(_rows_bytes(maps, 1) for maps in models)
    rows = max(0, min(images, int(left / max(1, last))))
    # All blocks of one image are worth less than the last block of another one.
    more = sum(_rows_bytes(m, len(chosen.blocks(m.maps.shape[1]))) for m in models) - last
    computed = min((len(maps.deep) for maps in models), default=0)
    deep = 0
    if rows == images:
        deep = min(computed, int((left - rows * last) / more) if more else rows)
    return replace(chosen, rows=rows, deep=deep)


def _selections() -> Iterator[MapSelection]:
    yield MapSelection(1, "each", 0)
    for step in _STEPS:
        yield MapSelection(step, "pooled", 0)


def _rows_bytes(maps: ModelMaps, blocks: int) -> int:
    return blocks * (RANGE + maps.rows.shape[1] ** 2)


def _cls_bytes(models: Sequence[ModelMaps], selection: MapSelection) -> int:
    """Return the bytes of one image's maps of the CLS token."""
    total = 0
    for model in models:
        _, depth, heads, gh, gw = model.maps.shape
        blocks = len(selection.blocks(depth))
        total += blocks * (RANGE + (heads if selection.heads == "each" else 2) * gh * gw)
    return total


def encode_maps(model: ModelMaps, image: int, selection: MapSelection) -> bytes:
    """Encode one model's maps of one image."""
    blocks = list(selection.blocks(model.maps.shape[1]))
    maps = model.maps[image].astype(np.float32)[blocks]
    if selection.heads == "pooled":
        maps = np.stack([maps.mean(1), maps.max(1)], 1)
    parts = [_quantize(maps.reshape(len(maps), -1))]
    if image < selection.rows:
        deep = image < selection.deep
        rows = model.deep[image][blocks] if deep else model.rows[image][None]
        parts.append(_quantize(rows.astype(np.float32).reshape(len(rows), -1)))
    return b"".join(ranges.tobytes() + levels.tobytes() for ranges, levels in parts)


def _quantize(maps: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return minimum and maximum of each of n maps (n, k) as (n, 2), and the levels (n, k)."""
    ranges = np.stack([maps.min(1), maps.max(1)], 1).astype("<f4")
    low, high = ranges[:, :1], ranges[:, 1:]
    unit = (maps - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return ranges, np.rint(np.sqrt(unit) * 255).astype(np.uint8)
