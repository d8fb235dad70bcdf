"""Tests of insertion and deletion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gtacli.measures.faithfulness import (
    area_under,
    center_map,
    keep_first,
    make_baseline,
    rank_patches,
    step_counts,
)


def test_the_highest_value_is_first_and_equal_values_have_no_regular_order() -> None:
    maps = torch.tensor([[[0.1, 0.9], [0.5, 0.3]]])
    assert rank_patches(maps).tolist() == [[3, 0, 1, 2]]
    flat = rank_patches(torch.zeros(2, 4, 4))
    assert flat[0].sort().values.tolist() == list(range(16))
    assert flat[0].tolist() not in (list(range(16)), list(range(15, -1, -1)))
    assert torch.equal(flat[0], flat[1])


def test_patches_are_kept_and_replaced() -> None:
    images = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    rank = torch.tensor([[2, 0, 1, 3]])
    kept = keep_first(images, -images, rank, (2, 2), 2)
    signs = (kept[0, 0] >= 0).int()
    assert signs[:2, 2:].eq(1).all()
    assert signs[2:, :2].eq(1).all()
    assert signs[:2, :2].sum() == 1  # the pixel 0
    assert signs[2:, 2:].eq(0).all()


def test_steps_go_from_no_patch_to_all() -> None:
    assert step_counts(196, 4) == [0, 49, 98, 147, 196]
    assert step_counts(2, 10) == [0, 1, 2]


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_baselines_keep_the_mean_color_and_lose_detail(fill: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 48) + torch.arange(3.0)[:, None, None]
    baseline = make_baseline(images, (4, 6), fill)  # type: ignore[arg-type]
    assert baseline.shape == images.shape
    torch.testing.assert_close(baseline.mean((-2, -1)), images.mean((-2, -1)), atol=0.05, rtol=0)
    assert baseline.std((-2, -1)).max() < 0.1 * images.std((-2, -1)).min()


def test_area_of_a_line_is_half() -> None:
    curves = np.stack([np.linspace(0, 1, 5), np.ones(5)])
    assert area_under(curves, np.linspace(0, 1, 5).tolist()).tolist() == [0.5, 1.0]


def test_the_center_comes_first() -> None:
    assert rank_patches(center_map((3, 3))[None])[0, 4] == 0
