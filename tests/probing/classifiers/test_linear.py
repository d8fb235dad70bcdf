"""Tests of the sweep: the choice of the head, and its accuracy against a scipy optimizer's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from gtacli.data.base import Record
from gtacli.models.feature_columns import FeatureColumn
from gtacli.models.loading import LoadedModel
from gtacli.probing.classifiers.heads import LinearHeads
from gtacli.probing.classifiers.linear import RATES_BY_STEPS, ProbeResult, Sweep, linear
from gtacli.probing.features.cache import Features
from gtacli.probing.features.evaluation import ProbeData, Splits

CLS = FeatureColumn(0, "cls")


class SyntheticData(ProbeData):
    """Data with synthetic features."""

    values: dict[str, torch.Tensor]

    def extract(self, model: Any, records: Any, columns: Any = None) -> Features:
        values = torch.stack([self.values[r.key] for r in records])
        labels = torch.tensor([r.label for r in records])
        return Features({CLS: values}, labels, tuple(r.key for r in records), {})

    def columns(self, model: Any) -> tuple[FeatureColumn, ...]:
        return (CLS,)


def make_data(
    train: int = 200,
    test: int = 400,
    val: int = 0,
    classes: int = 5,
    noise: float = 1.6,
    seed: int = 0,
) -> SyntheticData:
    """Make `classes` clusters in 12 dimensions of very different scales."""
    rng = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, 12, generator=rng)
    sizes = torch.logspace(-2, 2, 12)
    values, splits = {}, {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        records = []
        for i in range(count):
            key = f"{split}/{i}"
            noise_i = noise * torch.randn(12, generator=rng)
            values[key] = (centers[i % classes] + noise_i) * sizes
            records.append(Record(key, i % classes, Path(key)))
        splits[split] = tuple(records)
    names = tuple(map(str, range(classes)))
    cache = SimpleNamespace(compute=SimpleNamespace(device=torch.device("cpu")))
    data_splits = Splits(names, splits["train"], splits["val"], splits["test"], "test")
    found = SyntheticData(data_splits, cast(Any, cache), "cls")
    found.values = values
    return found


def run_sweep(data: SyntheticData, **options: Any) -> ProbeResult:
    """Run the sweep of SGD, which is not the default for so few images."""
    return linear(data, cast(LoadedModel, None), Sweep(**options, solver="sgd"))


def logistic_regression(data: SyntheticData, penalty: float) -> float:
    """Return the test accuracy of a logistic regression by scipy's L-BFGS in float64."""
    train, test = (data.extract(None, records) for records in (data.splits.train, data.splits.test))
    x, y = train.values.double().numpy(), train.labels.numpy()
    mean, spread = x.mean(0), x.std(0)
    x = (x - mean) / spread
    width, classes = x.shape[1], 5

    def loss(flat: Any) -> tuple[float, Any]:
        w = flat.reshape(width + 1, classes)
        z = x @ w[:-1] + w[-1]
        logs = z - logsumexp(z, axis=1, keepdims=True)
        error = np.exp(logs)
        error[np.arange(len(y)), y] -= 1
        slope = np.vstack([x.T @ error / len(y) + penalty * w[:-1], error.mean(0)])
        value = -logs[np.arange(len(y)), y].mean() + penalty / 2 * (w[:-1] ** 2).sum()
        return float(value), slope.ravel()

    w = minimize(loss, np.zeros((width + 1) * classes), jac=True, method="L-BFGS-B").x
    w = w.reshape(width + 1, classes)
    z = (test.values.double().numpy() - mean) / spread @ w[:-1] + w[-1]
    return float((z.argmax(1) == test.labels.numpy()).mean())


@pytest.mark.parametrize("race", [True, False])
def test_the_accuracy_is_that_of_the_best_logistic_regression(race: bool) -> None:
    data = make_data(600, 2000)
    best = max(logistic_regression(data, 10.0**e) for e in range(-5, 1))
    assert run_sweep(data, race=race).metrics["top1"] > best - 0.01
    assert best > 0.7


def test_the_chosen_head_is_trained_with_the_same_batch_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rate is chosen for a number of steps, and the default batch size depends on the images.

    Of 5,120 images (without those held out) it would be 64, of all 6,400 it is 128.
    """
    sizes, before = [], LinearHeads.train

    def train(
        self: LinearHeads, features: Any, rows: Any, steps: int, batch: int, *rest: Any
    ) -> None:
        sizes.append((len(rows), steps, batch))
        before(self, features, rows, steps, batch, *rest)

    monkeypatch.setattr(LinearHeads, "train", train)
    metrics = run_sweep(make_data(6400, 50), epochs=2, race=False).metrics
    assert sizes == [(5120, 80, 128), (6400, 100, 128)]
    assert (metrics["head_batch"], metrics["steps"]) == (128, 100)


def test_the_choice_does_not_depend_on_the_test_images() -> None:
    first = run_sweep(make_data()).metrics
    other = make_data()
    for record in other.splits.test:
        other.values[record.key] = -other.values[record.key]
    second = run_sweep(other).metrics
    assert second["top1"] < first["top1"] - 0.2
    for name in ("lr", "chosen_top1", "chosen_on", "steps"):
        assert first[name] == second[name]
    assert (first["chosen_on"], first["n_chosen_on"]) == ("held-out", 40)


def test_the_result_says_when_the_head_is_chosen_on_the_test_images() -> None:
    data = make_data(60, 100, noise=3.0)
    metrics = run_sweep(data, on_test=True, race=False).metrics
    assert (metrics["chosen_on"], metrics["n_chosen_on"]) == ("test", 100)
    assert metrics["chosen_top1"] == pytest.approx(metrics["top1"], abs=0.02)
    assert metrics["top1"] >= run_sweep(data, race=False).metrics["top1"]


def test_the_head_is_chosen_on_the_datasets_validation_split() -> None:
    metrics = run_sweep(make_data(val=50)).metrics
    assert (metrics["chosen_on"], metrics["n_chosen_on"]) == ("val", 50)


def test_given_learning_rates_are_used() -> None:
    metrics = run_sweep(make_data(), rates=(0.25, 0.5)).metrics
    assert metrics["heads"] == 2
    assert metrics["lr"] in (0.25, 0.5)
    assert run_sweep(make_data()).metrics["heads"] == len(RATES_BY_STEPS) == 13


def test_a_single_head_is_not_chosen() -> None:
    metrics = run_sweep(make_data(), rates=(0.25,)).metrics
    assert (metrics["lr"], metrics["chosen_on"], metrics["n_chosen_on"]) == (0.25, None, 0)
    assert metrics["top1"] > 0.5


def test_two_images_per_class_are_too_few_to_hold_out(caplog: pytest.LogCaptureFixture) -> None:
    metrics = run_sweep(make_data(10, 20)).metrics
    assert metrics["chosen_on"] is None
    assert metrics["chosen_top1"] is None
    assert metrics["n_chosen_on"] == 0
    assert "no class has 3 training images" in caplog.text


def test_one_class_and_three_test_images() -> None:
    result = run_sweep(make_data(20, 3, classes=1))
    assert result.metrics["top1"] == 1.0
    assert result.n_test == len(result.per_image["top1"]) == 3


def test_the_same_seed_gives_the_same_metrics() -> None:
    assert run_sweep(make_data()).metrics == run_sweep(make_data()).metrics


@pytest.mark.parametrize(
    ("images", "batch", "epochs"), [(100, 64, 100), (15000, 256, 100), (1_281_167, 1024, 10)]
)
def test_default_batch_size_and_steps(images: int, batch: int, epochs: float) -> None:
    assert Sweep().batch_of(images) == batch
    per_epoch = images // batch
    assert Sweep().steps(images) == pytest.approx(epochs * max(1, per_epoch), rel=1e-3)
