"""Tests of MAE's protocol against its formulas in NumPy, and on images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gtacli import load_model
from gtacli.data.base import Record
from gtacli.data.spec import load_dataset
from gtacli.models.feature_columns import FeatureColumn
from gtacli.probing.classifiers.linear_mae import (
    MaeHead,
    MaeProtocol,
    _AugmentedFeatures,
    linear_mae,
)
from gtacli.probing.features.cache import FeatureCache
from gtacli.probing.features.evaluation import ProbeData, make_splits
from gtacli.runtime.devices import choose_compute


def test_steps_equal_lars_on_normalized_features() -> None:
    head = MaeHead(6, 3, torch.device("cpu"), seed=1)
    w, b = (p.detach().double().numpy().copy() for p in (head.linear.weight, head.linear.bias))
    assert abs(w).max() > 0
    assert (b == 0).all()
    momenta = [np.zeros_like(w), np.zeros_like(b)]
    rng = np.random.default_rng(0)
    for lr in (0.5, 2.0, 6.4):
        x, y = rng.normal(3, 5, (20, 6)), rng.integers(0, 3, 20)
        head.step(torch.from_numpy(x).float(), torch.from_numpy(y), lr)
        normed = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
        z = normed @ w.T + b
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        p[np.arange(20), y] -= 1
        slopes = [p.T @ normed / 20, p.mean(0)]
        slopes[0] *= (
            0.001 * np.linalg.norm(w) / np.linalg.norm(slopes[0])
        )  # only the matrix has a trust ratio
        for parameter, momentum, slope in zip((w, b), momenta, slopes, strict=True):
            momentum[...] = 0.9 * momentum + slope
            parameter -= lr * momentum
        np.testing.assert_allclose(head.linear.weight.detach(), w, atol=2e-6)
        np.testing.assert_allclose(head.linear.bias.detach(), b, atol=2e-6)


def test_the_learning_rate_rises_and_falls() -> None:
    protocol = MaeProtocol(epochs=90)
    assert protocol.lr(0, 16384) == 0
    assert protocol.lr(5, 16384) == pytest.approx(3.2)
    assert protocol.lr(10, 16384) == pytest.approx(6.4)
    assert protocol.lr(50, 16384) == pytest.approx(3.2)
    assert protocol.lr(90, 512) == pytest.approx(0, abs=1e-9)
    assert MaeProtocol(epochs=4, warmup=10).lr(3, 256) == pytest.approx(0.03)


@pytest.fixture
def data(tmp_path: Path, class_folders: Callable[..., Path]) -> ProbeData:
    folder = class_folders(train=6, test=4)
    (folder / "train/green/2.png").write_bytes(b"no image")
    cache = FeatureCache(tmp_path / "cache", choose_compute("cpu", "fp32"), batch_size=5)
    return ProbeData(make_splits(load_dataset(str(folder))), cache, "all")


def test_an_epoch_has_each_readable_image_once_in_a_new_view(
    data: ProbeData, small_vit: Callable[..., str]
) -> None:
    model = load_model(small_vit())
    views = _AugmentedFeatures(data, model, [FeatureColumn(2, "cls")], data.splits.train)
    # As published, the incomplete batch of an epoch is dropped.
    for size, sizes in ((4, [4, 4, 4, 4]), (100, [17]), (17, [17]), (18, [17])):
        epochs = [[*views.batches(epoch, size)] for epoch in (0, 1)]
        for epoch in epochs:
            assert [len(labels) for _, labels in epoch] == sizes
            counts = torch.cat([labels for _, labels in epoch]).bincount()
            assert (counts <= torch.tensor([6, 5, 6])).all()
        first, second = (torch.cat([x for x, _ in epoch]).sort(0).values for epoch in epochs)
        assert not torch.allclose(first, second)
    assert [*data.skipped] == ["train/green/2.png"]


def test_crops_are_taken_from_the_full_size_image(
    data: ProbeData, small_vit: Callable[..., str], tmp_path: Path
) -> None:
    """A small crop keeps fine texture, which an image that is shrunk first would lose."""
    board = np.indices((128, 128)).sum(0) // 2 % 2 * 255
    path = tmp_path / "board.png"
    Image.fromarray(board.astype(np.uint8)).save(path)
    views = _AugmentedFeatures(
        data, load_model(small_vit()), [FeatureColumn(2, "cls")], [Record("board", 0, path)]
    )
    crops = (views.transform(views.store.get(0), np.random.default_rng(i)) for i in range(40))
    assert max(float(view.float().std()) for view in crops) > 60


@pytest.mark.parametrize("threads", [0, 1])
def test_the_number_of_workers_is_as_given(
    data: ProbeData, small_vit: Callable[..., str], threads: int
) -> None:
    data.cache.threads = threads
    views = _AugmentedFeatures(
        data, load_model(small_vit()), [FeatureColumn(2, "cls")], data.splits.train
    )
    assert views.workers == threads


def test_it_learns_the_colors(data: ProbeData, small_vit: Callable[..., str]) -> None:
    model = load_model(small_vit())
    result = linear_mae(data, model, MaeProtocol(epochs=20, batch=6, base_lr=4000.0, warmup=2))
    metrics = result.metrics
    assert metrics["top1"] > 0.6
    assert metrics["chosen_on"] is None
    assert metrics["epoch"] == 19
    assert (result.n_train, result.n_test) == (17, 12)
    assert metrics["lr"] == pytest.approx(4000 * 6 / 256)


def test_the_result_says_when_the_epoch_is_chosen_on_the_test_images(
    data: ProbeData, small_vit: Callable[..., str]
) -> None:
    model = load_model(small_vit())
    last = linear_mae(data, model, MaeProtocol(epochs=6, batch=6, base_lr=4000.0, warmup=1))
    best = linear_mae(
        data, model, MaeProtocol(epochs=6, batch=6, base_lr=4000.0, warmup=1, on_test=True)
    )
    assert best.metrics["chosen_on"] == "test"
    assert best.metrics["top1"] >= last.metrics["top1"]
