"""Tests of guided weights against loops in float64, and over several processes."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gtacli.pretraining.guidance import (
    guided_weights,
    interpolate_cosine,
    normalize_maps,
    region_errors,
    shuffle_maps,
)
from gtacli.runtime.distribution import join_processes

Together = Callable[..., list[Any]]
shapes = st.tuples(st.integers(1, 4), st.integers(2, 12))
seeds = st.integers(0, 2**31)


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@given(shapes, seeds, st.floats(1e-3, 1e3), st.floats(-5, 5))
def test_maps_are_normalized_per_view(
    shape: tuple[int, int], seed: int, scale: float, shift: float
) -> None:
    maps = drawn(shape, seed) * scale + shift
    for row, mine in zip(maps.double(), normalize_maps(maps), strict=True):
        span = row.max() - row.min()
        if span < 1e-4:
            continue
        torch.testing.assert_close(mine.double(), (row - row.min()) / span, atol=1e-3, rtol=0)
        assert mine.min() == 0
        assert mine.max() == 1


def test_constant_map_becomes_zero() -> None:
    flat = torch.full((2, 6), 0.3)
    flat[1] += torch.linspace(0, 1e-7, 6)  # what resampling leaves
    assert torch.equal(normalize_maps(flat), torch.zeros(2, 6))
    faint = torch.full((1, 6), 0.3)
    faint[0, 0] += 1 / 255
    assert normalize_maps(faint)[0, 0] == 1


@given(shapes, seeds, st.floats(0.2, 50), st.sampled_from([None, 1.0, 0.3]))
def test_guided_loss_matches_loop(
    shape: tuple[int, int], seed: int, tau: float, gamma: float | None
) -> None:
    maps, errors = drawn(shape, seed), drawn(shape, seed + 1)
    b, m = shape
    weights = [[exp(float(maps[i, j]) / tau) for j in range(m)] for i in range(b)]
    scale = b * m / sum(map(sum, weights)) if gamma is None else gamma
    loss = sum(scale * weights[i][j] * float(errors[i, j]) for i in range(b) for j in range(m)) / (
        b * m
    )
    mine = guided_weights(maps, tau, gamma)
    assert mine.dtype == torch.float32
    assert float((mine * errors).mean()) == pytest.approx(loss, rel=1e-5)


@given(shapes, seeds, st.floats(1e-4, 100))
def test_mean_weight_is_1_with_auto_gamma(shape: tuple[int, int], seed: int, tau: float) -> None:
    weights = guided_weights(drawn(shape, seed), tau)
    assert weights.isfinite().all()
    assert float(weights.mean()) == pytest.approx(1, rel=2e-3)


def test_large_tau_gives_plain_mae() -> None:
    torch.testing.assert_close(guided_weights(drawn((3, 8), 0), 1e9), torch.ones(3, 8))
    torch.testing.assert_close(guided_weights(drawn((3, 8), 0), 1e9, 1.0), torch.ones(3, 8))
    assert torch.equal(guided_weights(torch.zeros(3, 8), 0.5), torch.ones(3, 8))


def test_weights_are_fp32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        weights = guided_weights(drawn((3, 8), 0).bfloat16(), 0.5)
    assert weights.dtype == torch.float32


@given(shapes, seeds)
def test_shuffled_map_has_the_same_values(shape: tuple[int, int], seed: int) -> None:
    maps = drawn(shape, seed)
    out = shuffle_maps(maps, drawn(shape, seed + 1))
    assert torch.equal(out.sort(1).values, maps.sort(1).values)


def test_views_are_shuffled_differently() -> None:
    maps = torch.arange(50.0).expand(4, -1)
    out = shuffle_maps(maps, torch.rand(4, 50))
    assert len({tuple(row.tolist()) for row in out}) == 4


def test_interpolate_cosine() -> None:
    assert interpolate_cosine(1.0, 0.5, 0.0) == 1.0
    assert interpolate_cosine(1.0, 0.5, 0.5) == pytest.approx(0.75)
    assert interpolate_cosine(1.0, 0.5, 0.25) == pytest.approx(0.5 + 0.5 * (1 + 0.5**0.5) / 2)
    assert interpolate_cosine(1.0, 0.5, 1.0) == 0.5
    assert interpolate_cosine(0.7, 0.7, 0.3) == pytest.approx(0.7)


def test_errors_inside_and_outside_the_object() -> None:
    errors = torch.tensor([[4.0, 1.0, 2.0, 3.0], [1.0, 1.0, 5.0, 5.0]], requires_grad=True)
    maps = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    parts = region_errors(errors, maps)
    assert not parts.fg.requires_grad
    assert float(parts.fg / parts.fg_mass) == pytest.approx((4 + 1) / 1.5)
    assert float(parts.bg / parts.bg_mass) == pytest.approx((1 + 1 + 3 + 12) / 6.5)


class Net(nn.Module):
    """Create the errors per patch of a small network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 1))

    def forward(self, patches: Tensor) -> Tensor:
        out: Tensor = self.layers(patches).squeeze(-1).square()
        return out


@pytest.mark.parametrize("shares", [(3, 3), (5, 1), (6, 0)], ids=["even", "uneven", "stand-in"])
def test_gradients_of_two_processes_match_one(shares: tuple[int, int], together: Together) -> None:
    """Each process has some of the images, weighted as in the loop; one may have a stand-in."""
    patches, maps = drawn((6, 8, 5), 0), normalize_maps(drawn((6, 8), 1) ** 3)

    net = Net()
    (guided_weights(maps, 0.3) * net(patches)).mean().backward()
    whole = [p.grad for p in net.parameters()]

    def work(rank: int) -> list[Any]:
        with join_processes() as processes:
            ddp = DistributedDataParallel(Net())
            start, count = (0, shares[0]) if rank == 0 else (shares[0], shares[1])
            mine = slice(start, start + count) if count else slice(0, 1)
            weights = guided_weights(maps[mine], 0.3, images=count, processes=processes)
            loss = (weights * ddp(patches[mine])).mean()
            (loss * count * processes.size / 6).backward()
            return [p.grad.tolist() for p in ddp.parameters()]

    for found in together(work):
        assert isinstance(found, list), found
        for mine, expected in zip(found, whole, strict=True):
            torch.testing.assert_close(torch.tensor(mine), expected, atol=1e-6, rtol=1e-5)
