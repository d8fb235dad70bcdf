"""Tests of refined masks against TokenCut's bilateral_solver.py, run on the same picture."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gtacli.discovery.refine import bilateral, guided, largest_object, working_size


def picture() -> NDArray[np.uint8]:
    """Draw a disc with a color gradient on a background with another one."""
    y, x, c = np.mgrid[:40, :56, :3]
    inside = (y - 20) ** 2 + (x - 26) ** 2 < 14**2
    return np.where(inside, 200 - 50 * c + x - y, 60 + 30 * c + 2 * y - x).astype(np.uint8)


def disc() -> NDArray[np.bool_]:
    y, x = np.mgrid[:40, :56]
    return np.asarray((y - 20) ** 2 + (x - 26) ** 2 < 14**2)


def target() -> NDArray[np.float64]:
    mask = np.zeros((40, 56))
    mask[8:32, 16:40] = 1
    return mask


# bilateral_solver_output(picture, target, 16, 16, 8) of the published file, its soft output at
# [3::7, 3::7]; `tol` renamed to `rtol`, as SciPy has renamed it.
PUBLISHED = """
0.02712239 0.02712239 0.03387393 0.03387393 0.03396313 0.03493756 0.03331751 0.03238921
0.02483011 0.02712239 0.87492794 0.87492794 0.87601014 0.03892854 0.03493756 0.03335897
0.01996381 0.02197811 0.86003553 0.87259174 0.87259174 0.88186551 0.03581243 0.03393147
0.01976119 0.01996381 0.86003553 0.86003553 0.87259174 0.87848930 0.03629544 0.03418377
0.01976119 0.01976119 0.02667909 0.86003553 0.86003553 0.04106014 0.04106014 0.03418377
0.01858746 0.01858746 0.02137873 0.02137873 0.02137873 0.02738655 0.02738655 0.03091174
"""


def test_bilateral_solver_equals_published_code() -> None:
    expected = np.array(PUBLISHED.split(), float).reshape(6, 8)
    soft = bilateral(picture(), target())
    np.testing.assert_allclose(soft[3::7, 3::7], expected, atol=2e-8)
    assert soft.sum() == pytest.approx(576.2823517330991, rel=1e-9)
    assert (soft**2).sum() == pytest.approx(461.1841919475533, rel=1e-9)
    assert np.count_nonzero(largest_object(soft)) == 609  # as in its binary output


def test_cells_of_wide_images_are_distinct() -> None:
    """Beyond 254 cells of 16 pixels the published hash gives wrong neighbors."""
    image = np.zeros((40, 16 * 300, 3), np.uint8)
    mask = np.zeros(image.shape[:2])
    mask[:16, : 16 * 4] = 1
    soft = bilateral(image, mask)
    part = bilateral(image[:, : 16 * 100], mask[:, : 16 * 100])
    np.testing.assert_allclose(soft[:, : 16 * 60], part[:, : 16 * 60], atol=1e-3)


@pytest.mark.parametrize("method", ["bilateral", "guided"])
def test_border_moves_to_the_edge_of_the_object(method: str) -> None:
    def iou(mask: NDArray[np.bool_]) -> float:
        return float((mask & disc()).sum() / (mask | disc()).sum())

    soft = bilateral(picture(), target()) if method == "bilateral" else None
    refined = largest_object(guided(picture(), target(), 16) if soft is None else soft)
    assert iou(refined) > 0.95 > iou(target() > 0) + 0.1


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (300, 2)])
@pytest.mark.parametrize("method", ["bilateral", "guided"])
def test_any_shape(method: str, shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 128, np.uint8)
    mask = np.ones(shape)
    soft = bilateral(image, mask) if method == "bilateral" else guided(image, mask, 9)
    assert soft.shape == shape
    np.testing.assert_allclose(soft, 1, atol=1e-4)


def test_holes_are_filled_and_largest_component_kept() -> None:
    soft = np.zeros((12, 20))
    soft[1:9, 1:9] = 0.9
    soft[3:5, 3:5] = 0.1  # a hole
    soft[9, 9] = 0.9  # touches at a corner only
    soft[1:4, 12:15] = 0.9
    expected = np.zeros((12, 20), bool)
    expected[1:9, 1:9] = True
    assert (largest_object(soft) == expected).all()


def test_object_larger_than_the_background() -> None:
    """The published code takes the second largest region, including the background."""
    soft = np.ones((10, 10))
    soft[:2] = 0
    assert largest_object(soft).sum() == 80
    assert not largest_object(np.full((4, 4), 0.4)).any()


def test_large_images_are_refined_at_a_smaller_size() -> None:
    assert working_size((300, 400)) == (300, 400)
    assert working_size((1024, 20)) == (1024, 20)
    assert working_size((3000, 4000)) == (768, 1024)
    assert working_size((20000, 3)) == (1024, 1)
