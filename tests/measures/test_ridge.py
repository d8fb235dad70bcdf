"""Tests of the leave-one-out ridge classifier against fits without each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gtacli.measures.ridge import kernel_of, leave_one_out


@given(st.integers(3, 12), st.integers(1, 20), st.integers(1, 4), st.integers(0, 10**6))
def test_scores_are_those_of_fits_without_the_image(n: int, width: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) + 3
    labels = rng.integers(0, k, n)
    kernel = kernel_of(torch.from_numpy(x))
    found = leave_one_out(kernel, torch.from_numpy(np.eye(k)[labels]), penalty=0.3)
    x = x - x.mean(0)
    x = x / np.sqrt((x * x).sum() / n)  # as the kernel: a mean diagonal of 1
    targets = np.eye(k)[labels]
    for i in range(n):
        others = np.arange(n) != i
        a, y = x[others], targets[others]
        center, mean = a.mean(0), y.mean(0)
        gram = (a - center).T @ (a - center) + 0.3 * np.eye(width)
        weight = np.linalg.solve(gram, (a - center).T @ (y - mean))
        assert found[i].numpy() == pytest.approx((x[i] - center) @ weight + mean, abs=1e-9)


def test_kernels_add_up_to_that_of_the_concatenation() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(9, 4, generator=rng), 50 * torch.randn(9, 7, generator=rng) + 2
    scaled = [(x - x.mean(0)) / (x - x.mean(0)).square().sum(1).mean().sqrt() for x in (a, b)]
    both = torch.cat(scaled, 1).double()
    assert torch.allclose(kernel_of(a) + kernel_of(b), both @ both.T, atol=1e-5)


def test_constant_features_give_the_mean_of_the_others() -> None:
    labels = torch.tensor([[1, 0], [1, 0], [0, 1]])
    found = leave_one_out(kernel_of(torch.full((3, 2), 5.0)), labels)
    expected = torch.tensor([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(found, expected)
