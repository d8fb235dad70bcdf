"""Tests of `gta probe linear` from few images: the choice, and the heads against scipy's."""

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
from gtacli.data.sampling import split_folds
from gtacli.models.feature_columns import FeatureColumn
from gtacli.models.loading import LoadedModel
from gtacli.probing.classifiers.linear import ProbeResult, Sweep, linear
from gtacli.probing.classifiers.logistic_heads import (
    HeldOutScores,
    LogisticHead,
    LogisticTrainer,
)
from gtacli.probing.classifiers.selection import feature_choices
from gtacli.probing.features.cache import Features
from gtacli.probing.features.evaluation import ProbeData, Splits

CPU = torch.device("cpu")
MODEL = cast(
    LoadedModel,
    SimpleNamespace(model=SimpleNamespace(blocks=[None] * 4, cls_token=torch.zeros(1))),
)
CLS, MEAN = FeatureColumn(3, "cls"), FeatureColumn(3, "mean")
COLUMNS = (CLS, MEAN, *(FeatureColumn(layer, "cls") for layer in range(3)))


class SyntheticData(ProbeData):
    """Data with synthetic features of a model with four blocks."""

    values: dict[str, dict[FeatureColumn, torch.Tensor]]

    def extract(self, model: Any, records: Any, columns: Any = None) -> Features:
        found = {c: torch.stack([self.values[r.key][c] for r in records]) for c in columns}
        labels = torch.tensor([r.label for r in records])
        return Features(found, labels, tuple(r.key for r in records), {})


def make_data(
    noise: dict[FeatureColumn, float] | None = None,
    shared: float = 2.0,
    per_class: int = 5,
    classes: int = 10,
    test: int = 60,
    val: int = 0,
    seed: int = 0,
) -> SyntheticData:
    """Make noisy clusters in 16 dimensions; each column shows them with more noise of its own."""
    rng = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, 16, generator=rng)
    values: dict[str, dict[FeatureColumn, torch.Tensor]] = {}
    splits = {}
    for split, count in (("train", per_class), ("val", val), ("test", test)):
        records = []
        for i in range(count * classes):
            key, label = f"{split}/{i}", i % classes
            image = 3 + centers[label] + shared * torch.randn(16, generator=rng)
            values[key] = {
                c: image + (noise or {}).get(c, 0.5) * torch.randn(16, generator=rng)
                for c in COLUMNS
            }
            records.append(Record(key, label, Path(key)))
        splits[split] = tuple(records)
    cache = SimpleNamespace(compute=SimpleNamespace(device=CPU))
    names = tuple(map(str, range(classes)))
    data_splits = Splits(names, splits["train"], splits["val"], splits["test"], "test")
    data = SyntheticData(data_splits, cast(Any, cache), "all", seed=seed)
    data.values = values
    return data


def run(data: SyntheticData, **options: Any) -> ProbeResult:
    return linear(data, MODEL, Sweep(**options))


def fit_by_scipy(x: Any, y: Any, classes: int, c: float) -> Any:
    """Return the function from features to logits of the minimum in float64, by L-BFGS."""
    mean, spread = x.mean(0), x.std(0)

    def scale(x: Any) -> Any:
        return (x - mean) / spread / np.sqrt(x.shape[1])

    z = scale(x)

    def loss(flat: Any) -> tuple[float, Any]:
        w, b = flat[:-classes].reshape(classes, -1), flat[-classes:]
        logs = z @ w.T + b
        logs = logs - logsumexp(logs, axis=1, keepdims=True)
        wrong = c * (np.exp(logs) - np.eye(classes)[y])
        value = -c * logs[np.arange(len(y)), y].sum() + (w**2).sum() / 2
        return float(value), np.concatenate([(wrong.T @ z + w).ravel(), wrong.sum(0)])

    start = np.zeros(classes * (x.shape[1] + 1))
    flat = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000}).x
    w, b = flat[:-classes].reshape(classes, -1), flat[-classes:]
    return lambda x: scale(x) @ w.T + b


def arrays(features: Features, columns: tuple[FeatureColumn, ...]) -> tuple[Any, Any]:
    x = torch.cat([features.columns[c] for c in columns], 1)
    return x.double().numpy(), features.labels.numpy()


def test_cross_validation_equals_separate_fits_by_scipy() -> None:
    data = make_data(classes=4)
    train = data.extract(None, data.splits.train, COLUMNS)
    folds = torch.arange(len(train)) // 4 % 3
    folds[-2:] = -1
    heads = [LogisticHead((CLS,), 10.0), LogisticHead((CLS, MEAN), 1.0)]
    scores = LogisticTrainer(train, 4, CPU).cross_validate(heads, folds, lambda done: None)
    held = (folds >= 0).numpy()
    for number, head in enumerate(heads):
        x, y = arrays(train, head.columns)
        logits = np.zeros((len(y), 4))
        for fold in range(3):
            out = (folds == fold).numpy()
            logits[out] = fit_by_scipy(x[~out], y[~out], 4, head.c)(x[out])
        loss = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
        np.testing.assert_allclose(scores.loss[number], loss[held], atol=2e-2)
        np.testing.assert_array_equal(scores.correct[number], (logits.argmax(1) == y)[held])


def test_the_test_accuracy_is_that_of_scipys_minimum() -> None:
    data = make_data()
    result = run(data, penalties=(3.0,))
    train, test = (data.extract(None, r, COLUMNS) for r in (data.splits.train, data.splits.test))
    logits = fit_by_scipy(*arrays(train, tuple(result.columns)), 10, 3.0)
    x, y = arrays(test, tuple(result.columns))
    assert result.metrics["top1"] == pytest.approx((logits(x).argmax(1) == y).mean(), abs=0.002)
    assert result.metrics["top1"] > 0.3  # chance: 0.1


def test_few_images_do_not_choose_by_luck() -> None:
    """The other features only add noise, so the head should be of the CLS token.

    The best of 52 heads on a fifth of these images often is of others.
    """
    noise = dict.fromkeys(COLUMNS, 0.7) | {CLS: 0.0}
    accuracy: dict[str, list[float]] = {"logistic": [], "sgd": []}
    simplest = {"logistic": 0, "sgd": 0}
    for seed in range(8):
        data = make_data(noise, seed=seed)
        for solver in accuracy:
            result = run(data, solver=solver)
            accuracy[solver].append(result.metrics["top1"])
            simplest[solver] += result.columns == (CLS,)
    assert simplest["logistic"] >= simplest["sgd"] + 2
    assert np.mean(accuracy["logistic"]) > np.mean(accuracy["sgd"]) + 0.015


def test_features_that_are_much_better_are_chosen() -> None:
    result = run(make_data(dict.fromkeys(COLUMNS, 3.0) | {MEAN: 0.0}, shared=1.0))
    assert result.columns == (MEAN,)


def test_the_simplest_head_within_one_standard_error() -> None:
    """The error is that of the paired difference, here of two images of 100."""
    images = torch.arange(100)
    right = torch.stack([images < 58, (images >= 2) & (images < 60), (images >= 1) & (images < 59)])
    best = images < 60
    loss = torch.ones(4, 100)
    # All differ by 0.02, in 2 images: the error is 0.014.
    assert HeldOutScores(torch.stack([*right, best]), loss).simplest() == 3
    # The first still differs by 0.02, but in 20 images: the error is 0.044.
    right[0] = (images >= 11) & (images < 69)
    assert HeldOutScores(torch.stack([*right, best]), loss).simplest() == 0
    scores = HeldOutScores(
        torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]).bool(), torch.ones(2, 5)
    )
    assert scores.simplest() == 0  # 1 more, of 3 that differ
    assert scores.accuracy(1) == pytest.approx(0.8)
    assert scores.standard_error(1) == pytest.approx(np.sqrt(0.8 * 0.2 / 5))


def test_equal_accuracy_is_decided_by_the_order_not_by_the_loss() -> None:
    right = torch.ones(2, 6, dtype=torch.bool)
    assert HeldOutScores(right, torch.tensor([[2.0], [1.0]]).expand(2, 6)).simplest() == 0


def test_the_result_tells_how_the_head_was_chosen() -> None:
    metrics = run(make_data()).metrics
    names = ("solver", "chosen_on", "n_chosen_on", "folds", "heads", "c", "lr", "head_batch")
    assert [metrics[name] for name in names] == ["logistic", "folds", 50, 5, 4, 10.0, None, None]
    error = np.sqrt(metrics["chosen_top1"] * (1 - metrics["chosen_top1"]) / 50)
    assert metrics["chosen_top1_se"] == pytest.approx(error)
    assert run(make_data(), penalties=(10.0, 1.0)).metrics["heads"] == 8
    metrics = run(make_data(), folds=1).metrics
    assert (metrics["chosen_on"], metrics["n_chosen_on"], metrics["folds"]) == (
        "held-out",
        10,
        None,
    )


def test_the_choice_is_on_the_validation_split_if_there_is_one() -> None:
    metrics = run(make_data(val=3)).metrics
    assert (metrics["chosen_on"], metrics["n_chosen_on"], metrics["folds"]) == ("val", 30, None)
    metrics = run(make_data(val=3), folds=3).metrics
    assert (metrics["chosen_on"], metrics["n_chosen_on"], metrics["folds"]) == ("folds", 50, 3)


def test_the_choice_does_not_depend_on_the_test_images() -> None:
    first, other = run(make_data()), make_data()
    for record in other.splits.test:
        other.values[record.key] = {c: -v for c, v in other.values[record.key].items()}
    second = run(other)
    assert second.metrics["top1"] < first.metrics["top1"] - 0.2
    assert second.columns == first.columns
    assert second.metrics["chosen_top1"] == first.metrics["chosen_top1"]
    assert run(make_data()).metrics == first.metrics


def test_one_image_per_class_chooses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    result = run(make_data(per_class=1))
    assert result.columns == (CLS,)
    names = ("chosen_on", "chosen_top1", "chosen_top1_se", "n_chosen_on", "folds")
    assert [result.metrics[name] for name in names] == [None, None, None, 0, None]
    assert "nothing is chosen" in caplog.text


def test_two_images_per_class_are_enough_to_choose() -> None:
    metrics = run(make_data(per_class=2)).metrics
    assert (metrics["chosen_on"], metrics["n_chosen_on"]) == ("folds", 20)


def test_one_class() -> None:
    assert run(make_data(classes=1)).metrics["top1"] == 1.0


@pytest.mark.parametrize(
    ("images", "classes", "options", "logistic"),
    [
        (1000, 5, {}, True),
        (1001, 5, {}, False),
        (1999, 200, {}, True),
        (2000, 200, {}, False),
        (3001, 1000, {}, False),
        (50, 5, {"rates": (0.1,)}, False),
        (50, 5, {"epochs": 3}, False),
        (50, 5, {"batch": 8}, False),
        (50, 5, {"race": False}, False),
        (50, 5, {"on_test": True}, False),
        (50, 5, {"solver": "sgd"}, False),
        (5000, 5, {"solver": "logistic"}, True),
    ],
)
def test_solver_by_the_number_of_images(
    images: int, classes: int, options: dict[str, Any], logistic: bool
) -> None:
    assert Sweep(**options).is_logistic(images, classes) == logistic


def test_the_cls_token_is_the_first_choice() -> None:
    choices = feature_choices(MODEL)
    assert choices[:3] == ((CLS,), (MEAN,), (CLS, MEAN))
    assert choices[3] == tuple(FeatureColumn(layer, "cls") for layer in range(4))


def test_folds_spread_every_class() -> None:
    labels = [0] * 7 + [1] * 2 + [2] + [3] * 5
    records = [Record(f"{i}.png", label, Path(f"{i}.png")) for i, label in enumerate(labels)]
    folds = split_folds(records, 5, seed=3)
    assert set(folds) == {f"{i}.png" for i in range(15)} - {"9.png"}  # the only one of its class
    sizes = np.bincount([*folds.values()], minlength=5)
    assert sizes.max() - sizes.min() <= 1
    for fold in range(5):
        assert {r.label for r in records if folds.get(r.key) != fold} == {0, 1, 2, 3}
    assert split_folds(records[::-1], 5, seed=3) == folds
    assert split_folds(records, 5, seed=4) != folds
