"""Tests of outlines as pixels, and of ground truth that turns with its photograph."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from gtacli.data.objects import GroundTruth, fill_outline

POINT = st.tuples(st.floats(-8, 30, width=32), st.floats(-8, 24, width=32))


def filled(outline: list[tuple[float, float]], size: tuple[int, int] = (12, 17)) -> np.ndarray:
    labels = np.zeros(size, np.int32)
    fill_outline(labels, np.array(outline, np.float64), 1)
    return labels > 0


def encloses(outline: list[tuple[float, float]], x: float, y: float) -> bool:
    """Return whether a ray to the left of a point crosses an outline an odd number of times."""
    crossed = False
    for (x0, y0), (x1, y1) in zip(outline, [*outline[1:], outline[0]], strict=True):
        if min(y0, y1) <= y < max(y0, y1):
            crossed ^= x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return crossed


@given(st.lists(POINT, min_size=3, max_size=9))
def test_outline_fills_the_pixels_whose_centers_it_encloses(
    outline: list[tuple[float, float]],
) -> None:
    mask = filled(outline)
    expected = [[encloses(outline, c + 0.5, r + 0.5) for c in range(17)] for r in range(12)]
    assert (mask == np.array(expected)).all()


def test_rectangle_has_its_area() -> None:
    mask = filled([(3, 2), (8, 2), (8, 5), (3, 5)])
    assert mask[2:5, 3:8].all()
    assert mask.sum() == 15


@pytest.mark.parametrize("outline", [[(0, 0), (1e9, 0), (3, 3)], [(0, 0), (np.nan, 2), (3, 3)]])
def test_outline_far_from_any_image_raises(outline: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="outside of any image"):
        filled(outline)


def test_outline_of_many_corners_takes_little_memory() -> None:
    corners = np.stack([np.linspace(0, 400, 12_000), np.tile([0.0, 400.0], 6_000)], axis=1)
    labels = np.zeros((400, 400), np.int32)
    tracemalloc.start()
    fill_outline(labels, corners, 1)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100e6
    with pytest.raises(ValueError, match="crosses the image too often"):
        fill_outline(labels, np.tile(corners, (9, 1)), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_ground_truth_turns_as_pillow_turns_the_photograph(orientation: int) -> None:
    labels = np.arange(54, dtype=np.int32).reshape(6, 9)
    stored = Image.fromarray(labels.astype(np.uint8))
    stored.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(stored))
    one = labels == 30
    (y,), (x,) = one.nonzero()
    turned = GroundTruth(labels, ((int(x), int(y), int(x) + 1, int(y) + 1),)).turned(
        (6, 9), orientation
    )
    assert turned.labels is not None
    assert turned.boxes is not None
    assert (turned.labels == upright).all()
    ((x0, y0, x1, y1),) = turned.boxes
    assert (upright[y0:y1, x0:x1] == 30).all()
