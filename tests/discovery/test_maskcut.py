"""Tests of repeated cuts against the formulas in float64, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import eigh
from torch import Tensor

from gtacli.discovery.maskcut import repeated_cuts
from gtacli.errors import UsageError

GRID = (9, 12)


def plain(features_NC: Tensor, count: int, tau: float = 0.2) -> list[NDArray[np.bool_]]:
    """Find the objects of one image with the solver and the loop of the published code."""
    n = GRID[0] * GRID[1]
    f = features_NC.double().numpy().copy()
    taken, objects, full = np.zeros(n, bool), [], []
    for k in range(count):
        f[taken] = 0
        unit = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-12)
        a = np.where(unit @ unit.T > tau, 1.0, 1e-5)
        d = np.diag(a.sum(1))
        y = eigh(d - a, d, subset_by_index=[1, 1])[1][:, 0]
        if y[np.abs(y).argmax()] < 0:
            y = -y
        side = (y > y.mean()).reshape(GRID)
        if sum(int(side[i, j]) for i in (0, -1) for j in (0, -1)) >= 3:
            side, y = ~side, -y
        parts, _ = ndimage.label(side)
        found = parts == parts.ravel()[np.where(side.ravel(), y, -np.inf).argmax()]
        found = found.ravel()
        overlaps = [(found & one).sum() / (found | one).sum() for one in full]
        new = found & ~taken
        if k and (max(overlaps) > 0.5 or found.mean() <= 0.01 or not new.any()):
            break
        objects.append(new)
        full.append(new)
        taken |= new
    return objects


def scene(rng: np.random.Generator, blobs: list[tuple[int, int, int, int]]) -> Tensor:
    """Return features of a background and of rectangles [x0, y0, x1, y1), all orthogonal."""
    kinds = np.zeros(GRID, int)
    for k, (x0, y0, x1, y1) in enumerate(blobs, start=1):
        kinds[y0:y1, x0:x1] = k
    directions = np.eye(8)[: len(blobs) + 1]
    features = directions[kinds.ravel()] + 0.15 * rng.standard_normal((kinds.size, 8))
    return torch.from_numpy(features).float()


BLOBS = [(1, 1, 5, 4), (7, 2, 11, 5), (3, 6, 6, 8)]


@pytest.mark.parametrize("seed", range(4))
def test_each_object_is_found_once(seed: int) -> None:
    features = scene(np.random.default_rng(seed), BLOBS)
    cuts = repeated_cuts(features[None], GRID, 5)
    found = [mask for mask in cuts.masks[0].numpy() if mask.any()]
    planted = []
    for x0, y0, x1, y1 in BLOBS:
        mask = np.zeros(GRID, bool)
        mask[y0:y1, x0:x1] = True
        planted.append(mask)
    for mask in planted:
        assert any((mask == one).mean() > 0.97 for one in found)
    assert (np.sum(found, axis=0) <= 1).all()


@pytest.mark.parametrize("seed", range(12))
def test_batch_equals_loop_over_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = []
    for count in range(1, 5):
        blobs = []
        for _ in range(count):
            x, y = int(rng.integers(0, 8)), int(rng.integers(0, 6))
            blobs.append((x, y, x + int(rng.integers(2, 5)), y + int(rng.integers(2, 4))))
        images.append(scene(rng, blobs))
    cuts = repeated_cuts(torch.stack(images), GRID, 3)
    for features, masks in zip(images, cuts.masks, strict=True):
        expected = plain(features, 3)
        found = [mask for mask in masks.flatten(1).numpy() if mask.any()]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_side_with_the_corners_is_background() -> None:
    """The rim has the largest entries, but it contains the corners."""
    rng = np.random.default_rng(0)
    features = scene(rng, [(1, 1, 11, 8)])
    first = repeated_cuts(features[None], GRID, 1)
    middle = np.zeros(GRID, bool)
    middle[1:8, 1:11] = True
    assert (first.masks[0, 0].numpy() == middle).mean() > 0.97
    inside = first.map[0].numpy()[middle].mean()
    assert inside > first.map[0].numpy()[~middle].mean()


def test_image_without_object_in_a_batch() -> None:
    """Equal patches have no cut; the other image of the batch is still processed."""
    alike = torch.ones(GRID[0] * GRID[1], 8)
    features = scene(np.random.default_rng(1), BLOBS)
    cuts = repeated_cuts(torch.stack([alike, features]), GRID, 3)
    assert not cuts.masks[0].any()
    assert not cuts.map[0].any()
    assert torch.equal(cuts.masks[1], repeated_cuts(features[None], GRID, 3).masks[0])


def test_negative_tau_is_rejected() -> None:
    features = scene(np.random.default_rng(1), BLOBS)[None]
    with pytest.raises(UsageError, match="tau: must be at least 0 for several objects"):
        repeated_cuts(features, GRID, 2, tau=-0.1)
