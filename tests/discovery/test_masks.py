"""Tests of resizing from the patch grid to pixels."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gtacli.discovery.masks import box_around, map_on, mask_on

sides = st.integers(1, 40)
grids = st.tuples(st.integers(1, 6), st.integers(1, 6))


@given(data=st.data(), grid=grids, h=sides, w=sides)
def test_pixel_has_the_value_of_the_patch_at_its_center(
    data: st.DataObject, grid: tuple[int, int], h: int, w: int
) -> None:
    mask = data.draw(arrays(bool, grid))
    on = mask_on((h, w), mask)
    assert on.shape == (h, w)
    for y in range(h):
        for x in range(w):
            # Integers, because a center exactly on a border belongs to the next patch.
            row, column = (2 * y + 1) * grid[0] // (2 * h), (2 * x + 1) * grid[1] // (2 * w)
            assert row * 2 * h <= (2 * y + 1) * grid[0] < (row + 1) * 2 * h
            assert on[y, x] == mask[row, column]


def test_stacks_of_masks() -> None:
    masks = np.random.default_rng(0).random((3, 2, 5)) > 0.5
    on = mask_on((7, 11), masks)
    assert on.shape == (3, 7, 11)
    assert all((a == mask_on((7, 11), m)).all() for a, m in zip(on, masks, strict=True))


def test_maps_are_interpolated_between_patch_centers() -> None:
    on = map_on((1, 8), np.array([[0.0, 1.0]], np.float32))
    # The patch centers are at pixels 1.5 and 5.5.
    np.testing.assert_allclose(on[0], np.clip((np.arange(8) - 1.5) / 4, 0, 1), atol=1e-6)


@given(mask=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_boxes(mask: np.ndarray) -> None:
    inside = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    box = box_around(mask)
    if not inside:
        assert box is None
        return
    xs, ys = zip(*inside, strict=True)
    assert box == [min(xs), min(ys), max(xs) + 1, max(ys) + 1]
