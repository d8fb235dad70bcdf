"""Tests of the counter-based noise."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from gtacli.pretraining.noise import image_noise

MASK = (1 << 64) - 1


def splitmix(x: int) -> int:
    """Compute the published finalizer on Python's integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_matches_splitmix64() -> None:
    golden, seed, epoch, stream = 0x9E3779B97F4A7C15, 2**32 - 1, 7, 1
    noise = image_noise(torch.tensor([0, 12345]), 3, seed, epoch, stream)
    for row, image in enumerate((0, 12345)):
        state = seed
        for part in (epoch, stream, image):
            state = splitmix((state + (part + 1) * golden) & MASK)
        for value in range(3):
            word = splitmix((state + (value + 1) * golden) & MASK)
            assert noise[row, value].item() == (word >> 40) / 2**24


def test_uniform_and_uncorrelated() -> None:
    noise = image_noise(torch.arange(2000), 64, seed=0, epoch=0).double().numpy()
    assert noise.min() >= 0
    assert noise.max() < 1
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 1e-3
    counts = np.bincount(noise.argsort(1)[:, 0], minlength=64)  # the patch that stays first
    assert stats.chisquare(counts).pvalue > 1e-3
    for other in (
        image_noise(torch.arange(2000), 64, seed=1, epoch=0),
        image_noise(torch.arange(2000), 64, seed=0, epoch=1),
        image_noise(torch.arange(2000), 64, seed=0, epoch=0, stream=1),
        image_noise(torch.arange(2000) + 1, 64, seed=0, epoch=0),
    ):
        assert abs(np.corrcoef(noise.ravel(), other.double().numpy().ravel())[0, 1]) < 0.01
    neighbors = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
    assert abs(neighbors) < 0.01


def test_noise_of_an_image_does_not_depend_on_its_batch() -> None:
    whole = image_noise(torch.arange(10), 16, seed=3, epoch=2)
    assert torch.equal(image_noise(torch.tensor([7, 2]), 16, seed=3, epoch=2), whole[[7, 2]])
