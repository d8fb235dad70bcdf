"""Maps as bytes of a page: which of them fit, and how each is written.

A map is uint8 of the square root of where its value lies between the least and the greatest of its
block: the root spends the levels on the low values, of which attention has most. Deflate gains
nothing on such bytes.

One network's maps of one image: the least and the greatest value of each block (float32,
little-endian), the maps (blocks, heads, patches), then, where there are any, the same of the rows
of all patches: their least and greatest values (1 or each block), the rows (1 or blocks, N, N).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gtacli.report.looking import Look

Heads = Literal["each", "pooled"]
BASE64 = 4 / 3
RANGE = 8
"""Bytes of a least and a greatest value."""
MAPS_SHARE = 0.65
"""Of the bytes, at most, for the maps of the CLS token; the patches' rows get what is left."""
_STEPS = (1, 2, 3, 4, 6, 12, 24, 48)


@dataclass(frozen=True)
class Plan:
    """What is kept of each network and image.

    Attributes:
        step: every so many blocks, counted from the last.
        heads: each head's map (their mean and maximum follow), or only mean and maximum.
        rows: how many images, from the first, have the rows of all patches in the last block.
        deep: of how many of these, from the first, they are kept of every block that is.
    """

    step: int
    heads: Heads
    rows: int
    deep: int = 0

    def layers(self, depth: int) -> tuple[int, ...]:
        """Absolute numbers of the blocks that are kept of `depth`."""
        return tuple(sorted(range(depth - 1, -1, -self.step)))


def plan(looks: Sequence[Look], images: int, size: float) -> Plan:
    """The richest that fits into `size` bytes of a page."""
    room = size / BASE64
    chosen = next(
        (p for p in _plans() if _maps_bytes(looks, p) * images <= MAPS_SHARE * room), None
    )
    chosen = chosen or Plan(_STEPS[-1], "pooled", 0)
    left = room - _maps_bytes(looks, chosen) * images
    last = sum(_rows_bytes(look, 1) for look in looks)
    rows = max(0, min(images, int(left / max(1, last))))
    # One image with all its blocks is worth less than another one with any.
    more = sum(_rows_bytes(look, len(chosen.layers(look.maps.shape[1]))) for look in looks) - last
    known = min((len(look.deep) for look in looks), default=0)
    deep = min(known, int((left - rows * last) / more) if more else rows) if rows == images else 0
    return replace(chosen, rows=rows, deep=deep)


def _plans() -> Iterator[Plan]:
    yield Plan(1, "each", 0)
    for step in _STEPS:
        yield Plan(step, "pooled", 0)


def _rows_bytes(look: Look, blocks: int) -> int:
    return blocks * (RANGE + look.rows.shape[1] ** 2)


def _maps_bytes(looks: Sequence[Look], plan: Plan) -> int:
    """Of one image."""
    total = 0
    for look in looks:
        _, depth, heads, gh, gw = look.maps.shape
        blocks = len(plan.layers(depth))
        total += blocks * (RANGE + (heads if plan.heads == "each" else 2) * gh * gw)
    return total


def pack(look: Look, image: int, plan: Plan) -> bytes:
    """One network's maps of one image."""
    layers = list(plan.layers(look.maps.shape[1]))
    maps = look.maps[image].astype(np.float32)[layers]
    if plan.heads == "pooled":
        maps = np.stack([maps.mean(1), maps.max(1)], 1)
    parts = [_levels(maps.reshape(len(maps), -1))]
    if image < plan.rows:
        rows = look.deep[image][layers] if image < plan.deep else look.rows[image][None]
        parts.append(_levels(rows.astype(np.float32).reshape(len(rows), -1)))
    return b"".join(ranges.tobytes() + levels.tobytes() for ranges, levels in parts)


def _levels(maps: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """(n, k) -> the least and the greatest value of each of the n (n, 2), and the levels (n, k)."""
    ranges = np.stack([maps.min(1), maps.max(1)], 1).astype("<f4")
    low, high = ranges[:, :1], ranges[:, 1:]
    share = (maps - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return ranges, np.rint(np.sqrt(share) * 255).astype(np.uint8)
