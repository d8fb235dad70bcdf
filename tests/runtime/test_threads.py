"""Tests of threads over images: results, errors, and the number of torch threads."""

from __future__ import annotations

import pytest
import torch

from gtacli.discovery.ncut import normalized_cut
from gtacli.errors import UsageError
from gtacli.runtime import threads


@pytest.fixture
def three_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("batch", [0, 1, 2, 7])
def test_parts_of_a_batch_are_joined_in_order(batch: int) -> None:
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
    with pytest.raises(UsageError, match="features of image 5 contain NaN"):
        normalized_cut(features, (12, 12))
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_gradients_are_not_recorded_on_any_thread() -> None:
    features = torch.randn(6, 144, 8, requires_grad=True)
    assert not normalized_cut(features, (12, 12)).eigenvector.requires_grad


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("batch", [1, 2])
def test_panels_of_an_image_are_split_over_threads(batch: int) -> None:
    features = torch.randn(batch, 900, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        shared = normalized_cut(features, (30, 30))
    torch.set_num_threads(1)
    assert torch.equal(shared.eigenvector, normalized_cut(features, (30, 30)).eigenvector)


@pytest.mark.usefixtures("three_threads")
def test_each_thread_uses_one_torch_thread_and_order_is_kept() -> None:
    def work(item: int) -> torch.Tensor:
        return torch.tensor([item, torch.get_num_threads()])

    with threads.one_thread():
        found = threads.each(work, range(7), 3)
    assert torch.stack(found).tolist() == [[i, 1] for i in range(7)]
    assert torch.get_num_threads() == 3
