"""Tests of rows of networks with different grids, numbers of heads, and depths."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gtacli.errors import UsageError
from gtacli.measures.attention import comparable_rows
from gtacli.models.matching import paired_layers, require_same
from gtacli.models.tap import Tap

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}


def network(**kwargs: Any) -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, **{**SMALL, **kwargs})


def tap(maps: Tensor, prefix: int) -> Tap:
    """Return logits with patch columns `maps` (B, H, gh, gw); prefix column i is -1 - i."""
    front = -torch.arange(1.0, prefix + 1).expand(*maps.shape[:2], prefix)
    row = torch.cat((front, maps.flatten(-2)), -1).unsqueeze(2)
    return Tap(0, (maps.shape[-2], maps.shape[-1]), prefix, 1.0, row=row)


def test_rows_of_equal_grids_and_heads_are_unchanged() -> None:
    maps = torch.randn(2, 2, 3, 4, 5)
    for include in (False, True):
        for rows, given_maps in zip(
            comparable_rows(tap(maps[0], 1), tap(maps[1], 5), include), maps, strict=True
        ):
            assert torch.equal(rows[..., -20:], given_maps.flatten(-2).unsqueeze(2))
            assert rows.shape[-1] == 20 + include
            if include:  # the CLS token's column, but not the registers'
                assert rows[..., 0].eq(-1).all()


def test_finer_grid_is_averaged() -> None:
    fine = torch.arange(64.0).view(1, 1, 8, 8)
    _, rows = comparable_rows(tap(torch.zeros(1, 1, 4, 4), 1), tap(fine, 1))
    made = rows.view(4, 4)
    for y in range(1, 3):
        for x in range(1, 3):  # a linear map keeps its values at coarse centers
            expected = fine[0, 0, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
            assert made[y, x] == pytest.approx(float(expected), abs=1e-4)


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.integers(-3, 3),
)
@settings(deadline=None, max_examples=30)
def test_constant_map_stays_constant(
    ours: tuple[int, int], theirs: tuple[int, int], value: int
) -> None:
    target, source = torch.zeros(1, 2, *ours), torch.full((1, 2, *theirs), float(value))
    rows = comparable_rows(tap(target, 1), tap(source, 1))
    assert rows[0].shape == rows[1].shape
    torch.testing.assert_close(rows[1], torch.full_like(rows[1], value))


def test_different_numbers_of_heads_are_averaged() -> None:
    target, source = torch.randn(2, 6, 3, 3), torch.randn(2, 4, 3, 3)
    ours, theirs = comparable_rows(tap(target, 1), tap(source, 1))
    torch.testing.assert_close(ours.view(2, 3, 3), target.mean(1))
    torch.testing.assert_close(theirs.view(2, 3, 3), source.mean(1))


def test_blocks_of_different_depths_are_paired_from_the_end() -> None:
    short, long = network(), network(depth=5)
    assert paired_layers("all", short, short) == ((0, 0), (1, 1), (2, 2))
    assert paired_layers("last", short, long) == ((2, 4),)
    assert paired_layers((-1, -2), short, long) == ((1, 3), (2, 4))
    for layers in ("all", (0, 1), (1, -1)):
        with pytest.raises(UsageError, match=r"3 blocks, the source 5.*`layers=last`"):
            paired_layers(layers, short, long)
    with pytest.raises(UsageError, match="no block -4"):
        paired_layers((-4,), short, long)


@pytest.mark.parametrize(
    ("kwargs", "measure", "values"),
    [
        ({"num_heads": 4}, "heads", "has 3 and the source 4"),
        ({"embed_dim": 48}, "head width", "has 8 and the source 16"),
        ({"embed_dim": 48}, "width", "has 24 and the source 48"),
        ({"patch_size": 4}, "patches", "has 4x4 and the source 8x8"),
        ({"reg_tokens": 2}, "prefix tokens", "has 1 and the source 3"),
    ],
)
def test_error_names_the_difference(kwargs: Any, measure: str, values: str) -> None:
    with pytest.raises(UsageError, match=f"`rows=all` needs the same {measure} .*{values}"):
        require_same(network(), network(**kwargs), "`rows=all`", measure)
