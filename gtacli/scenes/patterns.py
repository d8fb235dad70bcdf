"""Marks of a coat: spots, stripes, bands. Each returns outlines within the box of a body."""

import numpy as np

from gtacli.scenes.pen import Points, ellipse

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def spots(box: Box, rng: np.random.Generator, size: float = 0.1) -> list[Points]:
    """Round marks on a jittered triangular grid."""
    left, top, right, bottom = box
    step = 2.9 * size
    marks = []
    shift = rng.uniform(0, step, 2)
    for row, y in enumerate(np.arange(top - shift[1], bottom + step, 0.87 * step)):
        for x in np.arange(left - shift[0] + (row % 2) * step / 2, right + step, step):
            dx, dy = rng.uniform(-0.18, 0.18, 2) * step
            radius = size * rng.uniform(0.8, 1.15)
            marks.append(ellipse(x + dx, y + dy, radius, radius, n=12))
    return marks


def bands(box: Box, rng: np.random.Generator, count: int = 4, lean: float = 0.06) -> list[Points]:
    """Upright bars, evenly apart."""
    left, top, right, bottom = box
    step = (right - left) / count
    width = 0.45 * step
    marks = []
    for x in left + step * (np.arange(count) + 0.5) + rng.uniform(-0.12, 0.12) * step:
        half = width / 2 * rng.uniform(0.85, 1.15)
        upper, lower = x + lean, x - lean
        corners = [(upper - half, top), (upper + half, top), (lower + half, bottom)]
        marks.append(np.array([*corners, (lower - half, bottom)]))
    return marks


def stripes(box: Box, rng: np.random.Generator, count: int = 3) -> list[Points]:
    """Lines along the body, slightly wavy."""
    left, top, right, bottom = box
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


def marks(kind: str, box: Box, rng: np.random.Generator, fineness: float = 1) -> list[Points]:
    """By name; `plain` has none."""
    if kind == "spots":
        return spots(box, rng, 0.11 / fineness)
    if kind == "bands":
        return bands(box, rng, round(4 * fineness))
    if kind == "stripes":
        return stripes(box, rng, round(3 * fineness))
    return []
