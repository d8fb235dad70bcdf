"""Threads over images: the same results and errors, and the caller's number of threads."""

from __future__ import annotations

import pytest
import torch

from gtacli.discovery import threads
from gtacli.discovery.ncut import normalized_cut
from gtacli.errors import UsageError


@pytest.fixture
def three_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("batch", [0, 1, 2, 7])
def test_shares_of_a_batch_are_put_together_in_order(batch: int) -> None:
    features = torch.randn(batch, 144, 8, generator=torch.Generator().manual_seed(0))
    shared = normalized_cut(features, (12, 12))
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    alone = normalized_cut(features, (12, 12))
    torch.testing.assert_close(shared.eigenvector, alone.eigenvector, rtol=0, atol=1e-5)
    assert torch.equal(shared.mask, alone.mask)


@pytest.mark.usefixtures("three_threads")
def test_an_error_names_the_image_of_the_batch_and_threads_are_restored() -> None:
    features = torch.randn(7, 144, 8)
    features[5, 3, 3] = float("nan")
    with pytest.raises(UsageError, match="features of image 5 hold NaN"):
        normalized_cut(features, (12, 12))
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_gradients_are_not_recorded_on_any_thread() -> None:
    features = torch.randn(6, 144, 8, requires_grad=True)
    assert not normalized_cut(features, (12, 12)).eigenvector.requires_grad


@pytest.mark.usefixtures("three_threads")
def test_each_share_runs_on_one_thread() -> None:
    seen = []

    def solve(share: torch.Tensor, first: int) -> torch.Tensor:
        seen.append((len(share), first, torch.get_num_threads()))
        return share[:, :, 0]

    features = torch.randn(7, 4, 2)
    assert torch.equal(threads.over_images(solve, features, 3), features[:, :, 0])
    assert sorted(seen, key=lambda s: s[1]) == [(3, 0, 1), (2, 3, 1), (2, 5, 1)]
