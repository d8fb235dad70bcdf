"""Outlines of masks as polygons: along the borders of the pixels, or through their centers.

An outline along the borders encloses exactly the mask's pixels (`gtacli.data.objects.fill_outline`
is the way back). Formats that know neither holes nor parts get them joined to one polygon by cuts
of no width, which are passed twice: there and back again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Ring = NDArray[np.int64]
"""A closed polygon (corners, 2): x and y in pixels; the last corner is joined to the first."""


def trace_borders(mask_hw: NDArray[np.bool_]) -> list[list[Ring]]:
    """Return the outlines of a mask: for each connected part its border, then those of its holes.

    Parts that meet only at a corner are two. Borders run along the borders of pixels, the pixels
    on the right hand: clockwise around a part (y points down), counterclockwise around a hole.
    """
    padded = np.pad(mask_hw, 1)
    above, below = padded[:-1], padded[1:]
    tl, tr, bl, br = above[:, :-1], above[:, 1:], below[:, :-1], below[:, 1:]
    # Where two pixels meet only at a corner, two corners of borders lie at one point.
    crossed = (tl == br) & (tr == bl) & (tl != tr)
    corners = tl ^ tr ^ bl ^ br
    y, x = np.nonzero(corners | crossed)
    twice = crossed[y, x]
    y, x = np.repeat(y, 1 + twice), np.repeat(x, 1 + twice)
    second = np.zeros(len(y), bool)
    second[np.flatnonzero(np.repeat(twice, 1 + twice))[1::2]] = True
    # In each row of corners every other one begins a border; the same in each column. At a crossing
    # the first corner is that on the left; which one is above depends on the pixels.
    beside = _partners(np.lexsort((second, x, y)))
    lower = second ^ (crossed & ~tl)[y, x]
    along = _partners(np.lexsort((lower, y, x)))
    # The pixel below a horizontal border is on where the border runs to the right.
    start = np.minimum(x, x[beside])
    inside = padded[y + 1, start + 1]
    begins = (x == start) == inside
    numbers, _ = ndimage.label(padded)
    part = numbers[np.where(inside, y + 1, y), start + 1]
    rings: dict[int, list[Ring]] = {}
    points = np.stack([x, y], axis=1)
    for path in _follow(begins, beside, along):
        # Corners are numbered by rows: the first one of a part is of its outer border.
        rings.setdefault(int(part[path[0]]), []).append(points[path])
    return [*rings.values()]


def trace_centers(border: Ring) -> Ring:
    """Return the outline through the centers of the pixels along a border, as whole numbers.

    It is what OpenCV's `fillPoly` turns into the same pixels; a single pixel is three equal points.
    """
    after = np.roll(border, -1, axis=0)
    ahead = np.sign(after - border)
    inward = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    ends = border + (ahead + inward - 1) // 2, after + (inward - ahead - 1) // 2
    path = np.stack(ends, axis=1).reshape(-1, 2)
    path = path[(path != np.roll(path, 1, axis=0)).any(axis=1)]
    return path if len(path) > 2 else np.resize(path if len(path) else ends[0], (3, 2))


def join(rings: Sequence[Ring]) -> Ring:
    """Return one polygon of several, joined at their nearest corners.

    The nearest ring comes next (Prim's minimum spanning tree). The distance is the larger one of
    width and height: so many pixels a line paints.
    """
    whole, ring = rings[0], rings[0]
    corners = np.concatenate(rings)
    owner = np.repeat(np.arange(len(rings)), [len(each) for each in rings])
    distance = np.where(owner == 0, -1.0, np.inf)  # -1: of a ring that is joined already
    nearest = corners.copy()
    for _ in rings[1:]:
        left = np.flatnonzero(distance >= 0)
        found, places = cKDTree(ring).query(corners[left], p=np.inf)
        nearer = found < distance[left]
        distance[left[nearer]] = found[nearer]
        nearest[left[nearer]] = ring[places[nearer]]
        best = int(left[np.argmin(distance[left])])
        distance[owner == owner[best]] = -1
        ring = rings[owner[best]]
        here = best - int(np.searchsorted(owner, owner[best]))
        there = int((whole == nearest[best]).all(1).argmax())
        tour = [whole[: there + 1], ring[here:], ring[: here + 1], whole[there:]]
        whole = np.concatenate(tour)
    return whole


def _partners(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the other end of the border at each corner: neighbors in the order, pair by pair."""
    partners = np.empty_like(order)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners


def _follow(
    begins: NDArray[np.bool_], beside: NDArray[np.int64], along: NDArray[np.int64]
) -> Iterator[list[int]]:
    """Yield the corners of each ring, in order.

    Args:
        begins: whether the horizontal border at a corner runs from it, not to it.
        beside: the other end of the horizontal border at each corner.
        along: that of the vertical border.
    """
    across, after = beside.tolist(), along[beside].tolist()
    done = (~begins).tolist()
    for start in range(len(done)):
        path, corner = [], start
        while not done[corner]:
            done[corner] = True
            path += [corner, across[corner]]
            corner = after[corner]
        if path:
            yield path
