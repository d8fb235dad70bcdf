"""Tests of patches against loops, convolutions and formulas."""

from __future__ import annotations

from math import cos, sin

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gtacli.models.patches import (
    Masking,
    embed_patches,
    mask_order,
    patchify,
    sincos_positions,
    standardize,
    take,
    unpatchify,
    visible_patches,
)


@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)
)
def test_patch_values_are_in_row_order(b: int, gh: int, gw: int, p: int, q: int) -> None:
    images = torch.rand(b, 3, gh * p, gw * q)
    patches = patchify(images, (p, q))
    assert patches.shape == (b, gh * gw, p * q * 3)
    for row in range(gh):
        for column in range(gw):
            cut = images[:, :, row * p : (row + 1) * p, column * q : (column + 1) * q]
            flat = cut.permute(0, 2, 3, 1).flatten(1)
            assert torch.equal(patches[:, row * gw + column], flat)
    assert torch.equal(unpatchify(patches, (gh, gw), (p, q)), images)


@pytest.mark.parametrize("patch", [(4, 4), (2, 5)])
def test_embed_patches_equals_convolution(patch: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 7, patch, patch)
    images = torch.randn(2, 3, 3 * patch[0], 2 * patch[1])
    mine = embed_patches(patchify(images, patch), conv.weight, conv.bias)
    torch.testing.assert_close(mine, conv(images).flatten(2).transpose(1, 2), atol=1e-5, rtol=0)


def test_positions_equal_published_formula() -> None:
    gh, gw, width = 3, 5, 16
    positions = sincos_positions((gh, gw), width)
    quarter = width // 4
    for y in range(gh):
        for x in range(gw):
            rates = [10000.0 ** (-k / quarter) for k in range(quarter)]
            plain = [f(at * r) for at in (x, y) for f in (sin, cos) for r in rates]
            expected = torch.tensor(plain, dtype=torch.float64)
            torch.testing.assert_close(positions[y * gw + x].double(), expected, atol=1e-6, rtol=0)


def test_standardize_uses_the_unbiased_variance() -> None:
    patches = torch.rand(2, 3, 48) * 5 - 1
    p = patches.double()
    mean = p.sum(-1, keepdim=True) / 48
    var = ((p - mean) ** 2).sum(-1, keepdim=True) / 47
    expected = (p - mean) / (var + 1e-6).sqrt()
    torch.testing.assert_close(standardize(patches).double(), expected, atol=1e-5, rtol=0)
    assert torch.equal(standardize(torch.ones(1, 1, 12)), torch.zeros(1, 1, 12))


def test_visible_patches_are_rounded_down_to_at_least_one() -> None:
    assert visible_patches(196, 0.75) == 49
    assert visible_patches(10, 0.75) == 2
    assert visible_patches(10, 0.9) == 1
    assert visible_patches(100, 0.9) == 10  # 100 * (1 - 0.9) is 9.99999...
    assert visible_patches(16, 0.99) == 1
    assert visible_patches(16, 0.0) == 16


def test_mask_order_is_a_permutation_given_by_noise() -> None:
    noise = torch.rand(5, 12)
    order = mask_order(noise)
    assert torch.equal(order.sort(1).values, torch.arange(12).expand(5, -1))
    assert torch.equal(take(noise, order), noise.sort(1).values)
    assert torch.equal(order, mask_order(noise))


def test_attention_masks_the_highest_values_and_inverse_the_lowest() -> None:
    torch.manual_seed(0)
    maps = torch.randint(0, 6, (4, 20)) / 5
    order = mask_order(torch.rand(4, 20), maps, "attention")
    assert (take(maps, order).diff(dim=1) >= 0).all()  # the last ones are masked
    order = mask_order(torch.rand(4, 20), maps, "inverse")
    assert (take(maps, order).diff(dim=1) <= 0).all()
    same = torch.ones(1, 20)
    orders = {tuple(mask_order(torch.rand(1, 20), same, "attention")[0].tolist()) for _ in "abc"}
    assert len(orders) == 3  # noise orders equal values


@pytest.mark.parametrize("masking", ["attention", "inverse"])
def test_a_share_of_the_masked_patches_is_chosen_and_the_others_are_random(
    masking: Masking,
) -> None:
    torch.manual_seed(0)
    maps, noise = torch.rand(4, 20), torch.rand(4, 20)
    order = mask_order(noise, maps, masking, chosen=5)
    assert torch.equal(order.sort(1).values, torch.arange(20).expand(4, -1))
    sign = 1 if masking == "attention" else -1
    extreme = (sign * maps).topk(5).indices
    assert torch.equal(order[:, 15:].sort(1).values, extreme.sort(1).values)
    assert (take(noise, order[:, :15]).diff(dim=1) >= 0).all()
    assert torch.equal(mask_order(noise, maps, masking, chosen=0), mask_order(noise))
