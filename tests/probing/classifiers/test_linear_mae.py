"""MAE's protocol against its formulas in numpy, and on images."""

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
from gtacli.probing.classifiers.linear_mae import MaeHead, MaeProtocol, _Views, linear_mae
from gtacli.probing.features.cache import FeatureCache
from gtacli.probing.features.columns import Column
from gtacli.probing.features.evaluation import Bench, parts_of
from gtacli.runtime.devices import choose_compute


def test_steps_are_those_of_lars_on_normalised_features() -> None:
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
        slopes[0] *= 0.001 * np.linalg.norm(w) / np.linalg.norm(slopes[0])  # of the matrix alone
        for parameter, momentum, slope in zip((w, b), momenta, slopes, strict=True):
            momentum[...] = 0.9 * momentum + slope
            parameter -= lr * momentum
        np.testing.assert_allclose(head.linear.weight.detach(), w, atol=2e-6)
        np.testing.assert_allclose(head.linear.bias.detach(), b, atol=2e-6)


def test_the_rate_rises_and_falls() -> None:
    protocol = MaeProtocol(epochs=90)
    assert protocol.lr(0, 16384) == 0
    assert protocol.lr(5, 16384) == pytest.approx(3.2)
    assert protocol.lr(10, 16384) == pytest.approx(6.4)
    assert protocol.lr(50, 16384) == pytest.approx(3.2)
    assert protocol.lr(90, 512) == pytest.approx(0, abs=1e-9)
    assert MaeProtocol(epochs=4, warmup=10).lr(3, 256) == pytest.approx(0.03)


@pytest.fixture
def on(tmp_path: Path, class_folders: Callable[..., Path]) -> Bench:
    folder = class_folders(train=6, test=4)
    (folder / "train/green/2.png").write_bytes(b"no image")
    cache = FeatureCache(tmp_path / "cache", choose_compute("cpu", "fp32"), batch_size=5)
    return Bench(parts_of(load_dataset(str(folder))), cache, "all")


def test_batches_have_readable_images_once_and_new_views(
    on: Bench, small_vit: Callable[..., str]
) -> None:
    model = load_model(small_vit())
    views = _Views(on, model, [Column(2, "cls")], on.parts.train)
    # What an epoch leaves over is left out, as published; it is no batch of a few images.
    for size, sizes in ((4, [4, 4, 4, 4]), (100, [17]), (17, [17]), (18, [17])):
        epochs = [[*views.batches(epoch, size)] for epoch in (0, 1)]
        for epoch in epochs:
            assert [len(labels) for _, labels in epoch] == sizes
            counts = torch.cat([labels for _, labels in epoch]).bincount()
            assert (counts <= torch.tensor([6, 5, 6])).all()
        first, second = (torch.cat([x for x, _ in epoch]).sort(0).values for epoch in epochs)
        assert not torch.allclose(first, second)
    assert [*on.skipped] == ["train/green/2.png"]


def test_crops_are_of_the_whole_image_as_it_is(
    on: Bench, small_vit: Callable[..., str], tmp_path: Path
) -> None:
    """Fine texture in a small crop, of which nothing is left in an image made small before."""
    board = np.indices((128, 128)).sum(0) // 2 % 2 * 255
    path = tmp_path / "board.png"
    Image.fromarray(board.astype(np.uint8)).save(path)
    views = _Views(on, load_model(small_vit()), [Column(2, "cls")], [Record("board", 0, path)])
    seen = (views.transform(views.store.get(0), np.random.default_rng(i)) for i in range(40))
    assert max(float(view.float().std()) for view in seen) > 60


@pytest.mark.parametrize("threads", [0, 1])
def test_as_many_processes_read_as_are_asked_for(
    on: Bench, small_vit: Callable[..., str], threads: int
) -> None:
    on.cache.threads = threads
    views = _Views(on, load_model(small_vit()), [Column(2, "cls")], on.parts.train)
    assert views.workers == threads


def test_it_learns_the_colours(on: Bench, small_vit: Callable[..., str]) -> None:
    model = load_model(small_vit())
    outcome = linear_mae(on, model, MaeProtocol(epochs=20, batch=6, base_lr=4000.0, warmup=2))
    figures = outcome.figures
    assert figures["top1"] > 0.6
    assert figures["chosen_on"] is None
    assert figures["epoch"] == 19
    assert (outcome.n_train, outcome.n_test) == (17, 12)
    assert figures["lr"] == pytest.approx(4000 * 6 / 256)


def test_the_best_epoch_by_the_test_images_is_an_option_that_says_so(
    on: Bench, small_vit: Callable[..., str]
) -> None:
    model = load_model(small_vit())
    last = linear_mae(on, model, MaeProtocol(epochs=6, batch=6, base_lr=4000.0, warmup=1))
    best = linear_mae(
        on, model, MaeProtocol(epochs=6, batch=6, base_lr=4000.0, warmup=1, on_test=True)
    )
    assert best.figures["chosen_on"] == "test"
    assert best.figures["top1"] >= last.figures["top1"]
