"""Tests of map crops against exact integrals and torch's resizing."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gtacli.data.augment.map_crops import crop_maps
from gtacli.data.augment.transforms import Crop, EvalTransform, TrainTransform

sides = st.integers(1, 9)
WHOLE = (0.0, 0.0, 1.0, 1.0)


def crop_map(
    values: Tensor, box: tuple[float, float, float, float], flip: bool, grid: tuple[int, int]
) -> Tensor:
    """Call `crop_maps` with one map."""
    return crop_maps(values[None], torch.tensor([[*box, float(flip)]]), grid)[0]


def integral(
    values: Tensor, box: tuple[float, float, float, float], flip: bool, grid: tuple[int, int]
) -> Tensor:
    """Return the mean of the map over each patch's window, with exact numbers."""

    def window(low: float, high: float, i: int, patches: int, cells: int) -> tuple[Fraction, ...]:
        a, b = Fraction(low) * cells, Fraction(high) * cells
        width = (b - a) / patches
        center, half = a + width * i + width / 2, max(width, Fraction(1)) / 2
        return center - half, center + half

    def pieces(a: Fraction, b: Fraction) -> list[tuple[Fraction, Fraction]]:
        inner = [Fraction(k) for k in range(int(a) - 2, int(b) + 3) if a < k < b]
        edges = [a, *inner, b]
        return list(pairwise(edges))

    (mh, mw), (gh, gw) = values.shape, grid
    out = torch.zeros(gh, gw, dtype=torch.float64)
    for i in range(gh):
        y0, y1 = window(box[1], box[3], i, gh, mh)
        for j in range(gw):
            x0, x1 = window(box[0], box[2], j, gw, mw)
            total = Fraction(0)
            for ya, yb in pieces(y0, y1):
                for xa, xb in pieces(x0, x1):
                    y = min(max(((ya + yb) / 2).__floor__(), 0), mh - 1)
                    x = min(max(((xa + xb) / 2).__floor__(), 0), mw - 1)
                    total += (yb - ya) * (xb - xa) * Fraction(float(values[y, x]))
            out[i, gw - 1 - j if flip else j] = float(total / ((y1 - y0) * (x1 - x0)))
    return out


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    def side() -> tuple[float, float]:
        low, high = sorted(draw(st.lists(st.integers(0, 128), min_size=2, max_size=2, unique=True)))
        return low / 128, high / 128  # exact in fp32

    (x0, x1), (y0, y1) = side(), side()
    return x0, y0, x1, y1


@settings(max_examples=60)
@given(sides, sides, st.integers(1, 7), st.integers(1, 7), boxes(), st.booleans(), st.integers(0))
def test_cropped_map_equals_its_integral(
    mh: int,
    mw: int,
    gh: int,
    gw: int,
    box: tuple[float, float, float, float],
    flip: bool,
    seed: int,
) -> None:
    values = torch.rand(mh, mw, generator=torch.Generator().manual_seed(seed % 2**31))
    mine = crop_map(values, box, flip, (gh, gw))
    expected = integral(values, box, flip, (gh, gw))
    torch.testing.assert_close(mine.double(), expected, atol=2e-5, rtol=0)


@given(sides, sides)
def test_map_on_its_own_grid_is_unchanged(h: int, w: int) -> None:
    values = torch.rand(h, w)
    torch.testing.assert_close(crop_map(values, WHOLE, False, (h, w)), values)
    torch.testing.assert_close(crop_map(values, WHOLE, True, (h, w)), values.flip(1))


@given(sides, sides, st.integers(1, 4), st.integers(1, 4))
def test_enlarging_is_bilinear_and_shrinking_averages(h: int, w: int, a: int, b: int) -> None:
    values = torch.rand(1, 1, h, w)
    up = F.interpolate(values, (h * a, w * b), mode="bilinear", align_corners=False)[0, 0]
    mine = crop_map(values[0, 0], WHOLE, False, (h * a, w * b))
    torch.testing.assert_close(mine, up, atol=1e-5, rtol=0)
    large = torch.rand(1, 1, h * a, w * b)
    down = F.interpolate(large, (h, w), mode="area")[0, 0]
    torch.testing.assert_close(crop_map(large[0, 0], WHOLE, False, (h, w)), down)


def test_each_image_has_its_own_crop() -> None:
    torch.manual_seed(0)
    maps = torch.randint(0, 256, (3, 8, 6), dtype=torch.uint8)
    corners = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.25, 1.0, 0.75], [0.1, 0.2, 0.3, 0.9]])
    flips = torch.tensor([False, True, True])
    views = crop_maps(maps, torch.cat([corners, flips[:, None]], dim=1), (4, 4))
    for view, one, box, flip in zip(views, maps, corners.tolist(), flips, strict=True):
        torch.testing.assert_close(view, crop_map(one / 255, tuple(box), bool(flip), (4, 4)))


def test_image_and_map_have_the_same_crop() -> None:
    """The crop of the image, pooled to the grid, equals the crop of the map."""
    shown = Crop(top=8, left=16, height=32, width=40, flip=True).relative(height=64, width=80)
    assert shown == pytest.approx((0.2, 0.125, 0.7, 0.625, 1))
    image = torch.rand(64, 80)
    cut = image[8:40, 16:56].flip(1)
    expected = F.interpolate(cut[None, None], (4, 5), mode="area")[0, 0]
    torch.testing.assert_close(crop_map(image, shown[:4], shown.flip, (4, 5)), expected)


@pytest.mark.parametrize("transform", [TrainTransform((64, 96)), EvalTransform((64, 96))], ids=repr)
def test_view_and_map_agree(transform: TrainTransform | EvalTransform) -> None:
    """With the image as its map, the view pooled to the grid equals the cropped map."""
    smooth = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    image = F.interpolate(smooth, (110, 150), mode="bicubic").clamp(0, 1)[0]
    pixels = (255 * image).round().to(torch.uint8).expand(3, -1, -1)
    for seed in range(8):
        view, shown = transform.make_view(pixels, np.random.default_rng(seed))
        mine = crop_map(pixels[0], shown[:4], shown.flip, (4, 6))
        seen = F.interpolate(view[None, :1].float() / 255, (4, 6), mode="area")[0, 0]
        torch.testing.assert_close(mine, seen, atol=0.01, rtol=0)


def test_autocast_does_not_reduce_precision() -> None:
    values = torch.rand(9, 9)
    expected = crop_map(values, (0.1, 0.2, 0.9, 0.8), False, (4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crop_map(values, (0.1, 0.2, 0.9, 0.8), False, (4, 4)), expected)
