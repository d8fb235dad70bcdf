"""Tests of few-shot classifiers against direct ones, one draw and one image at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize
from scipy.special import logsumexp

from gtacli import load_model
from gtacli.measures.logistic import fit_logistic
from gtacli.probing.classifiers.fewshot import draw_shots, fewshot
from gtacli.probing.features.cache import FeatureCache, Features
from gtacli.probing.features.evaluation import ProbeData, Splits, compare_results
from gtacli.runtime.devices import choose_compute

CPU = choose_compute("cpu", "fp32")
Array = NDArray[np.float64]


def reference(x: Array, y: NDArray[np.int64], classes: int, c: float) -> tuple[Array, Array]:
    """Minimize the formula in float64 by L-BFGS."""

    def loss(flat: Array) -> tuple[float, Array]:
        w, b = flat[:-classes].reshape(classes, -1), flat[-classes:]
        logits = x @ w.T + b
        value = c * (logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]).sum()
        wrong = c * (np.exp(logits - logsumexp(logits, axis=1)[:, None]) - np.eye(classes)[y])
        gradient = np.concatenate([(wrong.T @ x + w).ravel(), wrong.sum(0)])
        return value + (w**2).sum() / 2, gradient

    start = np.zeros(classes * (x.shape[1] + 1))
    options = {"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    return found[:-classes].reshape(classes, -1), found[-classes:]


@settings(max_examples=25)
@given(
    st.integers(2, 6),
    st.integers(1, 4),
    st.integers(2, 30),
    st.sampled_from([0.1, 1.0, 10.0, 100.0]),
    st.integers(0, 2**31),
)
def test_logistic_regression_finds_the_minimum(
    classes: int, shots: int, width: int, c: float, seed: int
) -> None:
    """With fewer images than features and with more, and with features of a large mean."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(classes), shots)
    x = rng.normal(3, 1, (3, len(labels), width))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    weights, intercepts = fit_logistic(
        torch.from_numpy(x).float(), torch.from_numpy(labels).expand(3, -1), classes, c
    )
    for i in range(3):
        w, b = reference(x[i], labels, classes, c)
        logits = x[i] @ weights[i].double().numpy().T + intercepts[i].double().numpy()
        expected = x[i] @ w.T + b
        apart = (logits - logits.mean(1, keepdims=True)) - (expected - expected.mean(1)[:, None])
        assert np.abs(apart).max() < 2e-3 * max(1, np.abs(expected).max())


def test_problems_solved_together_are_independent() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4, 12, 5), torch.arange(12).remainder(3).expand(4, 12)
    together = fit_logistic(x, y, 3, 5.0, tolerance=1e-6)
    for i in range(4):
        alone = fit_logistic(x[i : i + 1], y[:1], 3, 5.0, tolerance=1e-6)
        torch.testing.assert_close(together[0][i], alone[0][0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(together[1][i], alone[1][0], atol=1e-3, rtol=1e-3)


def test_draws_have_n_images_of_each_class() -> None:
    labels = np.array([0] * 7 + [2] * 2 + [5] * 4)
    found = draw_shots(labels, 3, draws=50, seed=1)
    assert found.shape == (50, 3 + 2 + 3)
    for rows in found:
        assert len(set(rows)) == 8
        assert np.bincount(labels[rows]).tolist() == [3, 0, 2, 0, 0, 3]
    assert np.unique(found).tolist() == [*range(13)]  # every image is drawn sometimes
    assert np.array_equal(draw_shots(labels, 3, 50, 1), found)
    assert not np.array_equal(draw_shots(labels, 3, 50, 2), found)
    fewer = draw_shots(labels, 1, 50, 1)
    assert all(set(a) <= set(b) for a, b in zip(fewer, found, strict=True))


class SyntheticCache(FeatureCache):
    """A cache with synthetic features."""

    def __init__(self, train: Features, test: Features) -> None:
        super().__init__(Path(), CPU)
        self.both = [train, test]

    def features(self, model: Any, records: Any, columns: Any) -> Features:
        return self.both[records == "test"]


def features_of(values: Array, labels: NDArray[np.int64]) -> Features:
    keys = tuple(f"{i}.png" for i in range(len(values)))
    column: Any = "cls"
    return Features({column: torch.from_numpy(values).float()}, torch.from_numpy(labels), keys, {})


@pytest.fixture
def make_data(tiny_model: Path) -> Any:
    """Return a function of the labels that makes features around class directions, and a model."""

    def make(train: list[int], test: list[int], seed: int = 0) -> tuple[ProbeData, Any]:
        rng = np.random.default_rng(seed)
        directions = rng.normal(size=(8, 16))
        features = []
        for labels in (train, test):
            values = directions[labels] + 1.2 * rng.normal(size=(len(labels), 16))
            features.append(features_of(values, np.array(labels)))
        records: Any = "train", "test"
        classes = tuple(f"class {i}" for i in range(8))
        cache = SyntheticCache(*features)
        return ProbeData(Splits(classes, records[0], (), records[1], "test"), cache), load_model(
            str(tiny_model)
        )

    return make


def unit(of: Features) -> Array:
    values = of.values.double().numpy()
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_accuracies_equal_those_of_direct_classifiers(make_data: Any) -> None:
    data, model = make_data([0, 1, 2] * 12, [0, 1, 2] * 9 + [7])  # class 7 has no training image
    found = fewshot(data, model, shots=(1, 4), draws=5, c=3.0, k=6, temperature=0.1)
    train, test = data.cache.both
    bank, queries, labels, truth = (
        unit(train),
        unit(test),
        train.labels.numpy(),
        test.labels.numpy(),
    )
    for n in (1, 4):
        hits: dict[str, list[NDArray[np.bool_]]] = {"linear": [], "centroid": [], "knn": []}
        for rows in draw_shots(labels, n, 5):
            x, y = bank[rows], labels[rows]
            w, b = reference(x, y, 3, 3.0)
            hits["linear"].append((queries @ w.T + b).argmax(1) == truth)
            means = np.stack([x[y == label].mean(0) for label in range(3)])
            apart = np.linalg.norm(queries[:, None] - means, axis=-1)
            hits["centroid"].append(apart.argmin(1) == truth)
            predicted = []
            for cosines in queries @ x.T:
                near = np.argsort(-cosines)[:6]
                votes = np.bincount(y[near], np.exp(cosines[near] / 0.1), 8)
                predicted.append(votes.argmax())
            hits["knn"].append(np.array(predicted) == truth)
        for method, right in hits.items():
            by_draw = np.stack(right).mean(1)
            assert found.metrics["fewshot"][str(n)][method] == pytest.approx(by_draw.mean())
            assert found.per_image[f"{method}@{n}"] == pytest.approx(np.stack(right).mean(0))
            low, high = found.metrics["fewshot_interval"][str(n)][method]
            assert found.metrics["fewshot_sd"][str(n)][method] == pytest.approx(by_draw.std(ddof=1))
            if by_draw.std():
                students = stats.ttest_1samp(by_draw, 0).confidence_interval()
                assert (low, high) == pytest.approx((students.low, students.high))
            assert by_draw.mean() < 1  # the image of class 7 is always wrong
    assert found.metrics["short_classes"] == {}
    assert (found.n_train, found.n_test) == (36, 28)


def test_few_images_and_one_class(make_data: Any, caplog: pytest.LogCaptureFixture) -> None:
    data, model = make_data([0, 0, 0, 1, 1], [0, 1, 0])
    found = fewshot(data, model, shots=(3, 50), draws=2)
    assert found.metrics["short_classes"] == {"3": 1, "50": 2}
    assert "2 classes have fewer than 50 training images" in caplog.text
    spread = found.metrics["fewshot_sd"]["50"]
    assert set(spread.values()) == {0}  # all images every time
    alone, model = make_data([4, 4, 4], [4, 4, 5])
    metrics = fewshot(alone, model, shots=(1,), draws=1).metrics
    assert [*metrics["fewshot"]["1"].values()] == pytest.approx([2 / 3] * 3)
    assert metrics["fewshot_sd"]["1"]["knn"] is None


def test_only_drawn_images_are_read_into_memory(
    make_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = make_data([0, 1] * 500, [0, 1] * 5)
    rows, before = [], torch.nn.functional.normalize
    spy = lambda x, **given: (rows.append(len(x)), before(x, **given))[1]  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "normalize", spy)
    fewshot(data, model, shots=(1, 5), draws=3)
    assert max(rows) <= 2 * 5 * 3


def test_models_are_compared_on_the_same_draws(make_data: Any) -> None:
    data, model = make_data([0, 1, 2] * 6, [0, 1, 2] * 5)
    other, _ = make_data([0, 1, 2] * 6, [0, 1, 2] * 5, seed=9)
    first = fewshot(data, model, shots=(1, 2), draws=3)
    tests = compare_results(fewshot(data, model, shots=(1, 2), draws=3), first)
    assert {test["difference"] for test in tests.values()} == {0}
    assert {test["p"] for test in tests.values()} == {1}
    tests = compare_results(fewshot(other, model, shots=(1, 2), draws=3), first)
    assert set(tests) == {f"{m}@{n}" for m in ("linear", "centroid", "knn") for n in (1, 2)}
    assert all(test["test"] == "paired permutation" for test in tests.values())
