"""Tests of heads that are trained together, against torch's SGD for one head at a time."""

from __future__ import annotations

from contextlib import nullcontext
from math import cos, pi, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gtacli.models.feature_columns import FeatureColumn
from gtacli.probing.classifiers import heads as module
from gtacli.probing.classifiers.heads import (
    Head,
    HeadScore,
    LinearHeads,
    compute_scales,
    count_steps,
)
from gtacli.probing.features.cache import Features

A, B = FeatureColumn(1, "cls"), FeatureColumn(2, "mean")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fast_matmul", nullcontext)


def make_features(n: int = 90, classes: int = 4, seed: int = 0) -> Features:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=rng)
    columns = {
        column: torch.randn(classes, width, generator=rng)[labels]
        + torch.randn(n, width, generator=rng)
        for column, width in ((A, 6), (B, 9))
    }
    return Features(columns, labels, tuple(map(str, range(n))), {})


def train_by_sgd(
    features: Features, head: Head, batches: list[Tensor], rows: Tensor, classes: int
) -> Tensor:
    """Return the logits of all images by a head that torch trains in float64."""
    values = torch.cat([features.columns[c] for c in head.columns], 1).double()
    mean, spread = values[rows].mean(0), values[rows].std(0, correction=0)
    inputs = (values - mean) / spread / sqrt(values.shape[1])
    linear = torch.nn.Linear(values.shape[1], classes).double()
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    sgd = torch.optim.SGD(linear.parameters(), lr=1.0, momentum=0.9)
    for step, chosen in enumerate(batches):
        for group in sgd.param_groups:
            group["lr"] = head.lr * 0.5 * (1 + cos(pi * step / len(batches)))
        sgd.zero_grad()
        F.cross_entropy(linear(inputs[chosen]), features.labels[chosen]).backward()
        sgd.step()
    return linear(inputs).detach()


def test_heads_trained_together_equal_heads_trained_alone() -> None:
    features, rows = make_features(), torch.arange(10, 80)
    heads = [Head((B,), 0.5), Head((A,), 3.0), Head((A, B), 0.1), Head((A,), 0.02)]
    scale = compute_scales(features, rows, (A, B), CPU)
    together = LinearHeads(heads, 4, scale)
    together.train(features, rows, 25, 16, seed=3)
    batches = [*module._make_batches(rows, 25, 16, 3)]
    ((_, logits),) = together.logits(features, torch.arange(90))
    for head, found in zip(heads, logits, strict=True):
        expected = train_by_sgd(features, head, batches, rows, 4)
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_scores_are_accuracy_and_cross_entropy() -> None:
    features, rows = make_features(), torch.arange(50, 90)
    heads = LinearHeads(
        [Head((A,), 1.0), Head((B,), 1.0)], 4, compute_scales(features, rows, (A, B), CPU)
    )
    heads.train(features, rows, 10, 8, seed=0)
    ((_, logits),) = heads.logits(features, rows)
    labels = features.labels[rows]
    for score, one in zip(heads.scores(features, rows), logits, strict=True):
        assert score.accuracy == pytest.approx((one.argmax(1) == labels).double().mean().item())
        assert score.minus_loss == pytest.approx(-F.cross_entropy(one, labels).item(), rel=1e-5)
    assert HeadScore(0.5, -1.0) > HeadScore(0.5, -2.0) > HeadScore(0.4, 0.0)


def test_features_are_standardized_over_the_training_images() -> None:
    features, rows = make_features(), torch.arange(5, 60)
    features.columns[A].mul_(1e-3).add_(100)  # large mean, small deviation
    features.columns[B][:, 2] = 7.0  # constant
    scale = compute_scales(features, rows, (A, B), CPU)
    for column in (A, B):
        values = features.columns[column][rows].double().numpy()
        mean, inverse = (x.numpy() for x in scale[column])
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-6)
        varies = values.std(0) > 0
        np.testing.assert_allclose(inverse[varies], 1 / values.std(0)[varies], rtol=1e-5)
        assert (inverse[~varies] == 0).all()


def test_an_epoch_has_every_image_once() -> None:
    rows = torch.arange(100, 132)
    batches = [*module._make_batches(rows, 8, 8, seed=1)]
    for epoch in (batches[:4], batches[4:]):
        assert sorted(torch.cat(epoch).tolist()) == rows.tolist()
    assert batches[0].tolist() != batches[4].tolist()
    assert [len(b) for b in module._make_batches(torch.arange(3), 4, 8, seed=1)] == [3] * 4
    assert [count_steps(*x) for x in ((1000, 2, 100), (50, 3, 64), (130, 1, 64))] == [20, 3, 2]
