"""Tests of objects from eigenvectors against the published code, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gtacli.discovery.bipartition import bipartition
from gtacli.discovery.ncut import normalized_cut


def published(
    y: np.ndarray, grid: tuple[int, int]
) -> tuple[np.ndarray, list[int], int, np.ndarray]:
    """Compute mask, box, seed and signed vector as the official code does."""
    side = y > y.mean()
    seed = int(np.argmax(np.abs(y)))
    if not side[seed]:
        y, side = -y, ~side
    labels, _ = ndimage.label(side.reshape(grid))
    mask = labels == labels[np.unravel_index(seed, grid)]
    rows, columns = np.where(mask)
    return mask, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], seed, y


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 4), gh=st.integers(1, 9), gw=st.integers(2, 9), seed=st.integers(0, 10**6)
)
def test_objects_equal_published_code(batch: int, gh: int, gw: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(batch, gh * gw)).astype(np.float32)
    vectors[np.arange(batch), np.abs(vectors).argmax(-1)] *= 1.001  # no near ties
    cut = bipartition(torch.from_numpy(vectors), (gh, gw))
    for i, y in enumerate(vectors):
        mask, box, at, signed = published(y, (gh, gw))
        np.testing.assert_array_equal(cut.mask[i].numpy(), mask)
        assert cut.box[i].tolist() == box
        assert int(cut.seed[i]) == at
        np.testing.assert_array_equal(cut.eigenvector[i].numpy(), signed)
        scaled = (signed - signed.min()) / (signed.max() - signed.min())
        np.testing.assert_allclose(cut.map[i].numpy().reshape(-1), scaled, atol=1e-6)


def test_object_is_one_4_connected_component() -> None:
    y = torch.zeros(1, 4, 5)
    y[0, 0, 0], y[0, 1, 1], y[0, 1, 2], y[0, 3, 4] = 1, 3, 2, 2
    cut = bipartition(y.flatten(1), (4, 5))
    assert cut.mask[0].nonzero().tolist() == [[1, 1], [1, 2]]
    assert cut.box[0].tolist() == [1, 1, 3, 2]
    assert int(cut.seed[0]) == 6


def test_seed_is_the_first_of_ties() -> None:
    """Corner tokens often tie exactly; in the official code noise of 1e-15 breaks the ties."""
    y = torch.tensor([[0.5, -0.1, -0.3, 0.5000005], [-0.9, 0.1, 0.2, 0.9000009]])
    cut = bipartition(y, (2, 2))
    assert cut.seed.tolist() == [0, 0]
    assert cut.mask.flatten(1).int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]
    assert cut.eigenvector[1].tolist() == pytest.approx([0.9, -0.1, -0.2, -0.9])


def test_differences_above_rounding_are_not_ties() -> None:
    """Corner tokens with nearly the same edges: the published code takes the larger entry."""
    y = torch.tensor([[0.5, -0.1, -0.3, 0.500003], [-0.9, 0.1, 0.2, 0.900006]])
    cut = bipartition(y, (2, 2))
    assert cut.seed.tolist() == [3, 3]
    assert cut.mask.flatten(1).int().tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]


def test_components_do_not_cross_images() -> None:
    """The last patch of one image and the first of the next are on the object's side."""
    y = torch.tensor([[0.0, 0, 0, 1], [1, 0, 0, 0]])
    cut = bipartition(y, (2, 2))
    assert cut.mask.flatten(1).int().tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize("solver", ["auto", "krylov", "eigh", "scipy"])
@pytest.mark.parametrize("what", ["constant", "nothing in common", "one patch"])
def test_graph_without_cut_has_no_object(solver: str, what: str) -> None:
    grid = (1, 1) if what == "one patch" else (11, 12)
    n = grid[0] * grid[1]
    features = torch.eye(n)[None] if what == "nothing in common" else torch.ones(1, n, 3)
    tau = 1.5 if what == "nothing in common" else 0.2  # not even a patch with itself
    cut = normalized_cut(features, grid, tau=tau, solver=solver)  # type: ignore[arg-type]
    assert cut.seed.tolist() == [-1]
    assert cut.box.tolist() == [[0, 0, 0, 0]]
    assert not cut.mask.any()
    assert not cut.map.any()
    assert not cut.eigenvector.any()


def test_image_without_cut_in_a_batch() -> None:
    features = torch.cat((torch.ones(1, 196, 8), two_regions(14)))
    cut = normalized_cut(features, (14, 14))
    alone = normalized_cut(features[1:], (14, 14))
    assert cut.seed[0] == -1
    torch.testing.assert_close(cut.eigenvector[1:], alone.eigenvector, atol=1e-5, rtol=0)
    assert torch.equal(cut.mask[1:], alone.mask)


def two_regions(side: int) -> torch.Tensor:
    """Return features (1, side^2, 8) of an object in rows 3 to 6, columns 2 to 7, with noise."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.nn.functional.one_hot(torch.tensor([0, 1]), 8).float()
    inside = torch.zeros(side, side, dtype=torch.long)
    inside[3:7, 2:8] = 1
    noise = 0.15 * torch.randn(side * side, 8, generator=generator)
    return (kinds[inside.flatten()] + noise)[None]


@pytest.mark.parametrize("side", [9, 14, 30])
@pytest.mark.parametrize("solver", ["auto", "scipy"])
def test_object_on_another_background_is_found(side: int, solver: str) -> None:
    cut = normalized_cut(two_regions(side), (side, side), solver=solver)  # type: ignore[arg-type]
    expected = torch.zeros(side, side, dtype=torch.bool)
    expected[3:7, 2:8] = True
    assert torch.equal(cut.mask[0], expected)
    assert cut.box[0].tolist() == [2, 3, 8, 7]
    assert cut.map[0][expected].min() > cut.map[0][~expected].max()
