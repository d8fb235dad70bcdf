from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.report.looking import Look
from gtacli.report.packing import BASE64, Plan, pack, plan


def a_look(images: int = 2, depth: int = 3, heads: int = 2, grid: tuple[int, int] = (2, 3)) -> Look:
    rng = np.random.default_rng(0)
    n = grid[0] * grid[1]
    logits = rng.normal(size=(images, depth, heads, n)) * 3
    maps = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    deep = rng.dirichlet(np.ones(n), size=(images, depth, n)).astype(np.float16)
    maps = maps.reshape(*maps.shape[:3], *grid).astype(np.float16)
    return Look(grid, maps, deep[:, -1], deep, [])


def unpacked(data: bytes, blocks: int, patches: int, rows: int) -> list[np.ndarray]:
    """As the docstring of `packing` says; `rows`: of how many blocks."""
    parts = []
    split = len(data) - rows * (8 + patches**2)
    for part, n in ((data[:split], blocks), (data[split:], rows)):
        if n:
            ranges = np.frombuffer(part[: 8 * n], "<f4").reshape(n, 2, 1, 1).astype(np.float64)
            levels = np.frombuffer(part[8 * n :], np.uint8).reshape(n, -1, patches)
            parts.append(ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * (levels / 255) ** 2)
    return parts


@pytest.mark.parametrize("deep", [0, 2])
def test_what_is_packed_comes_back_to_half_a_level(deep: int) -> None:
    look = a_look()
    maps, rows = unpacked(pack(look, 1, Plan(1, "each", 2, deep)), 3, 6, 3 if deep else 1)
    patches = look.deep[1] if deep else look.rows[1][None]
    assert rows.shape == patches.shape
    for found, true in ((maps, look.maps[1].reshape(3, 2, 6)), (rows, patches)):
        true = true.astype(np.float64)
        least, greatest = (f((-1, -2), keepdims=True) for f in (true.min, true.max))
        shares = [np.sqrt((x - least).clip(0) / (greatest - least)) for x in (found, true)]
        assert np.abs(shares[0] - shares[1]).max() <= 0.51 / 255


def test_pooled_maps_are_mean_and_maximum_of_every_so_many_blocks_from_the_last() -> None:
    look = a_look(depth=5, heads=3)
    chosen = Plan(2, "pooled", 0)
    assert chosen.layers(5) == (0, 2, 4)
    (maps,) = unpacked(pack(look, 0, chosen), 3, 6, 0)
    true = look.maps[0].astype(np.float64).reshape(5, 3, 6)[[0, 2, 4]]
    np.testing.assert_allclose(maps[:, 0], true.mean(1), atol=0.01)
    np.testing.assert_allclose(maps[:, 1], true.max(1), atol=0.01)


def test_of_images_beyond_the_plan_there_are_no_rows() -> None:
    look, chosen = a_look(images=3), Plan(2, "each", 2, 1)
    sizes = [len(pack(look, i, chosen)) for i in range(3)]
    assert np.diff(sizes).tolist() == [-(8 + 36), -(8 + 36)]  # two of three blocks, one, none


@given(st.floats(1e3, 1e7), st.integers(1, 40), st.integers(1, 24))
def test_a_plan_fits_and_more_room_never_keeps_less(
    size: float, networks: int, images: int
) -> None:
    look = a_look(images=1, depth=12, heads=4, grid=(6, 6))
    looks = [replace(look, deep=np.broadcast_to(look.deep, (images, *look.deep.shape[1:])))]
    looks *= networks

    def page(chosen: Plan) -> float:
        plans = (
            Plan(chosen.step, chosen.heads, rows, deep) for rows, deep in ((0, 0), (1, 0), (1, 1))
        )
        none, last, every = (len(pack(look, 0, each)) for each in plans)
        counts = (images - chosen.rows, chosen.rows - chosen.deep, chosen.deep)
        return BASE64 * networks * float(np.dot(counts, (none, last, every)))

    chosen, roomy = plan(looks, images, size), plan(looks, images, 2 * size)
    least = Plan(48, "pooled", 0)
    assert page(chosen) <= max(size, page(least)) * 1.001
    assert roomy.step <= chosen.step
    assert (roomy.heads == "each") >= (chosen.heads == "each")
    assert chosen.deep <= chosen.rows <= images
    assert chosen.deep == 0 or chosen.rows == images


def test_a_small_page_keeps_everything() -> None:
    assert plan([a_look()], 2, 1e6) == Plan(1, "each", 2, 2)
    shallow = replace(a_look(), deep=a_look().deep[:1])
    assert plan([a_look(), shallow], 2, 1e6) == Plan(1, "each", 2, 1)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_maps_are_kept(value: float) -> None:
    flat = np.full((1, 1, 1, 1, 2), value, np.float16)
    zeros = np.zeros((1, 1, 2, 2), np.float16)
    look = Look((1, 2), flat, zeros[:, 0], zeros, [])
    (maps,) = unpacked(pack(look, 0, Plan(1, "each", 0)), 1, 2, 0)
    assert maps == pytest.approx(np.full((1, 1, 2), value))
