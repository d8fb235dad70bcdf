"""Tests of the center prior against its formula, one region at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gtacli.discovery.bipartition import bipartition
from gtacli.discovery.center import center_confidence, center_weights, central_component
from gtacli.discovery.maskcut import repeated_cuts
from gtacli.discovery.ncut import normalized_cut
from gtacli.errors import UsageError


def weight(grid: tuple[int, int], row: int, column: int) -> float:
    """Compute w of one patch from the distances of all patches."""

    def squared(i: int, j: int) -> float:
        y = (i + 0.5) / grid[0] - 0.5
        x = (j + 0.5) / grid[1] - 0.5
        return y * y + x * x

    every = [squared(i, j) for i in range(grid[0]) for j in range(grid[1])]
    return sum(every) / len(every) - squared(row, column)


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (5, 3), (2, 7)])
def test_weights_equal_the_formula(grid: tuple[int, int]) -> None:
    w = center_weights(grid)
    assert w.sum() == pytest.approx(0, abs=1e-12)
    for (i, j), value in np.ndenumerate(w):
        assert value == pytest.approx(weight(grid, i, j), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 4), gh=st.integers(1, 9), gw=st.integers(2, 9), seed=st.integers(0, 10**6)
)
def test_central_object_of_eigenvectors(batch: int, gh: int, gw: int, seed: int) -> None:
    """Of the components of both sides, scored one by one, the best one is the object."""
    vectors = np.random.default_rng(seed).normal(size=(batch, gh * gw)).astype(np.float32)
    cut = bipartition(torch.from_numpy(vectors), (gh, gw), "center")
    w = center_weights((gh, gw))
    for i, y in enumerate(vectors):
        side = (y > y.mean()).reshape(gh, gw)
        labels = [ndimage.label(s) for s in (side, ~side)]
        regions = [lab == k for lab, count in labels for k in range(1, count + 1)]
        scores = sorted(w[region].sum() for region in regions)
        mask = cut.mask[i].numpy()
        assert any(np.array_equal(mask, region) for region in regions)
        assert w[mask].sum() == pytest.approx(scores[-1], abs=1e-9)
        sign = 1 if side[mask].all() else -1
        np.testing.assert_array_equal(cut.eigenvector[i].numpy(), sign * y)
        at = int(cut.seed[i])
        assert mask.ravel()[at]
        assert abs(y[at]) == pytest.approx(np.abs(y)[mask.ravel()].max(), rel=1e-5)
        rows, columns = np.nonzero(mask)
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert cut.box[i].tolist() == expected


def sky_and_bird() -> torch.Tensor:
    """Return features (1, 144, 8): a bird of 4 x 4 patches, and a corner unlike all else."""
    kinds = torch.nn.functional.one_hot(torch.tensor([0, 1, 2]), 8).float()
    kind = torch.zeros(12, 12, dtype=torch.long)
    kind[4:8, 5:9] = 1
    kind[0, 0] = 2
    noise = 0.1 * torch.randn(144, 8, generator=torch.Generator().manual_seed(0))
    return (kinds[kind.flatten()] + noise)[None]


def test_center_takes_the_bird_where_the_seed_is_in_the_corner() -> None:
    bird = torch.zeros(12, 12, dtype=torch.bool)
    bird[4:8, 5:9] = True
    published = normalized_cut(sky_and_bird(), (12, 12))
    assert not torch.equal(published.mask[0], bird)
    ours = normalized_cut(sky_and_bird(), (12, 12), side="center")
    assert not ours.mask[0, 0, 0]
    assert (ours.mask[0] & bird).any()
    first = repeated_cuts(sky_and_bird(), (12, 12), 2, side="center").masks[:, 0]
    assert torch.equal(first, ours.mask)


def test_graph_without_cut_has_no_central_object() -> None:
    features = torch.cat((torch.ones(1, 144, 8), sky_and_bird()))
    cut = normalized_cut(features, (12, 12), side="center")
    assert cut.seed[0] == -1
    assert not cut.mask[0].any()
    assert cut.box[0].tolist() == [0, 0, 0, 0]
    assert cut.mask[1].any()


def test_no_images_have_no_components() -> None:
    none = np.zeros((0, 3, 3), bool)
    assert central_component(none, ~none).shape == (0, 3, 3)


def test_confidence_is_a_correlation() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random((6, 9)) > 0.6
        r = np.corrcoef(mask.ravel(), center_weights((6, 9)).ravel())[0, 1]
        assert center_confidence(mask) == pytest.approx(max(0, r), abs=1e-9)
    disk = center_weights((16, 16)) > 0
    assert 0.8 < center_confidence(disk) <= 1
    assert center_confidence(~disk) == 0
    assert center_confidence(np.zeros((4, 4), bool)) == 0
    assert center_confidence(np.ones((4, 4), bool)) == 0


def test_unknown_side() -> None:
    with pytest.raises(UsageError, match="side: must be one of seed, center"):
        normalized_cut(torch.ones(1, 4, 2), (2, 2), side="sky")  # type: ignore[arg-type]
