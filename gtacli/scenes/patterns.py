"""Marks of a coat: outlines of spots, stripes and bands within the bounds of a body."""

import numpy as np

from gtacli.scenes.pen import Points, Rng, ellipse

Bounds = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def spots(bounds: Bounds, rng: Rng, size: float = 0.1) -> list[Points]:
    """Return round marks on a jittered triangular grid."""
    left, top, right, bottom = bounds
    step = 2.9 * size
    marks = []
    shift = rng.uniform(0, step, 2)
    for row, y in enumerate(np.arange(top - shift[1], bottom + step, 0.87 * step)):
        for x in np.arange(left - shift[0] + (row % 2) * step / 2, right + step, step):
            dx, dy = rng.uniform(-0.18, 0.18, 2) * step
            radius = size * rng.uniform(0.8, 1.15)
            marks.append(ellipse(x + dx, y + dy, radius, radius, n=12))
    return marks


def bands(bounds: Bounds, rng: Rng, count: int = 4, lean: float = 0.06) -> list[Points]:
    """Return upright bars at equal distances."""
    left, top, right, bottom = bounds
    step = (right - left) / count
    width = 0.45 * step
    marks = []
    for x in left + step * (np.arange(count) + 0.5) + rng.uniform(-0.12, 0.12) * step:
        half = width / 2 * rng.uniform(0.85, 1.15)
        upper, lower = x + lean, x - lean
        corners = [(upper - half, top), (upper + half, top), (lower + half, bottom)]
        marks.append(np.array([*corners, (lower - half, bottom)]))
    return marks


def stripes(bounds: Bounds, rng: Rng, count: int = 3) -> list[Points]:
    """Return slightly wavy lines along the body."""
    left, top, right, bottom = bounds
    step = (bottom - top) / count
    x = np.linspace(left, right, 12)
    marks = []
    phase = rng.uniform(0, 6)
    for y in top + step * (np.arange(count) + 0.5):
        wave = y + 0.06 * step * np.sin(4 * x + phase)
        half = 0.22 * step * rng.uniform(0.85, 1.15)
        upper = np.stack([x, wave - half], axis=1)
        marks.append(np.concatenate([upper, np.stack([x, wave + half], axis=1)[::-1]]))
    return marks


def make_marks(kind: str, bounds: Bounds, rng: Rng, fineness: float = 1) -> list[Points]:
    """Return the marks of this kind; "plain" has none."""
    if kind == "spots":
        return spots(bounds, rng, 0.11 / fineness)
    if kind == "bands":
        return bands(bounds, rng, round(4 * fineness))
    if kind == "stripes":
        return stripes(bounds, rng, round(3 * fineness))
    return []
