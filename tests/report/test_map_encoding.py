"""The encoding of maps and the selection that fits the page."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.report.attention import ModelMaps
from gtacli.report.map_encoding import MapSelection, encode_maps, select_maps
from gtacli.report.previews import BASE64


def make_maps(
    images: int = 2, depth: int = 3, heads: int = 2, grid: tuple[int, int] = (2, 3)
) -> ModelMaps:
    rng = np.random.default_rng(0)
    n = grid[0] * grid[1]
    logits = rng.normal(size=(images, depth, heads, n)) * 3
    maps = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    deep = rng.dirichlet(np.ones(n), size=(images, depth, n)).astype(np.float16)
    maps = maps.reshape(*maps.shape[:3], *grid).astype(np.float16)
    return ModelMaps(grid, maps, deep[:, -1], deep, [])


def decode(data: bytes, blocks: int, patches: int, rows: int) -> list[np.ndarray]:
    """Decode maps as the docstring of `map_encoding` says; `rows`: number of blocks with rows."""
    parts = []
    split = len(data) - rows * (8 + patches**2)
    for part, n in ((data[:split], blocks), (data[split:], rows)):
        if n:
            ranges = np.frombuffer(part[: 8 * n], "<f4").reshape(n, 2, 1, 1).astype(np.float64)
            levels = np.frombuffer(part[8 * n :], np.uint8).reshape(n, -1, patches)
            parts.append(ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * (levels / 255) ** 2)
    return parts


@pytest.mark.parametrize("deep", [0, 2])
def test_decoded_maps_differ_by_at_most_half_a_level(deep: int) -> None:
    model = make_maps()
    maps, rows = decode(
        encode_maps(model, 1, MapSelection(1, "each", 2, deep)), 3, 6, 3 if deep else 1
    )
    patches = model.deep[1] if deep else model.rows[1][None]
    assert rows.shape == patches.shape
    for decoded, true in ((maps, model.maps[1].reshape(3, 2, 6)), (rows, patches)):
        true = true.astype(np.float64)
        low, high = (f((-1, -2), keepdims=True) for f in (true.min, true.max))
        units = [np.sqrt((x - low).clip(0) / (high - low)) for x in (decoded, true)]
        assert np.abs(units[0] - units[1]).max() <= 0.51 / 255


def test_pooled_maps_are_mean_and_maximum_of_every_second_block_from_the_last() -> None:
    model = make_maps(depth=5, heads=3)
    chosen = MapSelection(2, "pooled", 0)
    assert chosen.blocks(5) == (0, 2, 4)
    (maps,) = decode(encode_maps(model, 0, chosen), 3, 6, 0)
    true = model.maps[0].astype(np.float64).reshape(5, 3, 6)[[0, 2, 4]]
    np.testing.assert_allclose(maps[:, 0], true.mean(1), atol=0.01)
    np.testing.assert_allclose(maps[:, 1], true.max(1), atol=0.01)


def test_images_beyond_the_selection_have_no_rows() -> None:
    model, chosen = make_maps(images=3), MapSelection(2, "each", 2, 1)
    sizes = [len(encode_maps(model, i, chosen)) for i in range(3)]
    assert np.diff(sizes).tolist() == [
        -(8 + 36),
        -(8 + 36),
    ]  # rows of two of three blocks, of one, of none


@given(st.floats(1e3, 1e7), st.integers(1, 40), st.integers(1, 24))
def test_selection_fits_and_grows_with_the_size(size: float, count: int, images: int) -> None:
    model = make_maps(images=1, depth=12, heads=4, grid=(6, 6))
    models = [replace(model, deep=np.broadcast_to(model.deep, (images, *model.deep.shape[1:])))]
    models *= count

    def page_size(chosen: MapSelection) -> float:
        selections = (
            MapSelection(chosen.step, chosen.heads, rows, deep)
            for rows, deep in ((0, 0), (1, 0), (1, 1))
        )
        none, last, every = (len(encode_maps(model, 0, each)) for each in selections)
        counts = (images - chosen.rows, chosen.rows - chosen.deep, chosen.deep)
        return BASE64 * count * float(np.dot(counts, (none, last, every)))

    chosen, roomy = select_maps(models, images, size), select_maps(models, images, 2 * size)
    least = MapSelection(48, "pooled", 0)
    assert page_size(chosen) <= max(size, page_size(least)) * 1.001
    assert roomy.step <= chosen.step
    assert (roomy.heads == "each") >= (chosen.heads == "each")
    assert chosen.deep <= chosen.rows <= images
    assert chosen.deep == 0 or chosen.rows == images


def test_a_small_report_contains_every_map() -> None:
    assert select_maps([make_maps()], 2, 1e6) == MapSelection(1, "each", 2, 2)
    shallow = replace(make_maps(), deep=make_maps().deep[:1])
    assert select_maps([make_maps(), shallow], 2, 1e6) == MapSelection(1, "each", 2, 1)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_maps_are_preserved(value: float) -> None:
    flat = np.full((1, 1, 1, 1, 2), value, np.float16)
    zeros = np.zeros((1, 1, 2, 2), np.float16)
    model = ModelMaps((1, 2), flat, zeros[:, 0], zeros, [])
    (maps,) = decode(encode_maps(model, 0, MapSelection(1, "each", 0)), 1, 2, 0)
    assert maps == pytest.approx(np.full((1, 1, 2), value))
