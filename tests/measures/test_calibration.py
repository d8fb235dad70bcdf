"""Calibration against plain formulas, and scipy's general minimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.classification import MulticlassCalibrationError

from gtacli.measures.calibration import (
    expected_calibration_error,
    fit_label_temperature,
    fit_temperature,
    lowest_sure,
    reliability,
)


def drawn(seed: int, n: int = 400, classes: int = 5, sharp: float = 1.0) -> tuple[np.ndarray, ...]:  # type: ignore[type-arg]
    """Return logits, sharpened, and labels drawn from the softmax before that."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n, classes)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(classes, p=row) for row in p])
    return logits * sharp, labels


@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_torchmetrics(seed: int) -> None:
    logits, labels = drawn(seed, sharp=2.5)
    p = torch.tensor(logits).softmax(-1)
    theirs = MulticlassCalibrationError(num_classes=5, n_bins=15, norm="l1")
    expected = float(theirs(p, torch.tensor(labels)))
    best = p.max(-1)
    right = best.indices.numpy() == labels
    assert expected_calibration_error(best.values.numpy(), right) == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize("sharp", [0.4, 1.0, 3.0])
def test_the_temperature_is_found_again(sharp: float) -> None:
    logits, labels = drawn(7, n=20_000, sharp=sharp)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(sharp, rel=0.05)
    grid = np.exp(np.linspace(-3, 3, 4001))

    def loss(t: float) -> float:
        scaled = logits[:2000] / t
        chosen = scaled[np.arange(2000), labels[:2000]]
        return float((np.log(np.exp(scaled).sum(1)) - chosen).mean())

    best = grid[int(np.argmin([loss(t) for t in grid]))]
    assert fit_temperature(logits[:2000], labels[:2000]) == pytest.approx(best, rel=3e-3)


@pytest.mark.parametrize("sharp", [0.4, 3.0])
def test_the_temperature_of_labels_is_found_again(sharp: float) -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((4000, 5)) * 2 - 1
    labels = rng.random((4000, 5)) < 1 / (1 + np.exp(-logits))
    found = fit_label_temperature(logits * sharp, labels)
    assert found == pytest.approx(sharp, rel=0.05)
    values, truth = torch.tensor(logits[:500] * sharp), torch.tensor(labels[:500]).double()

    def loss(t: float) -> float:
        return float(binary_cross_entropy_with_logits(values / t, truth))

    grid = np.exp(np.linspace(-3, 3, 4001))
    best = grid[int(np.argmin([loss(t) for t in grid]))]
    assert fit_label_temperature(values, truth) == pytest.approx(best, rel=3e-3)


def test_images_that_are_all_right_have_a_finite_temperature() -> None:
    found = fit_temperature(np.eye(3) * 5, np.arange(3))
    assert math.exp(-3) <= found < 0.2


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.7, 0.9, 1.0]), st.booleans()), min_size=1),
    st.floats(0, 1),
)
def test_the_threshold_is_the_lowest(images: list[tuple[float, bool]], accuracy: float) -> None:
    p, right = (np.array(column) for column in zip(*images, strict=True))
    found = lowest_sure(p, right, accuracy)
    enough = [t for t in sorted(set(p)) if right[p >= t].mean() >= accuracy]
    if not enough:
        assert found is None
    else:
        assert found is not None
        assert found == (enough[0], pytest.approx((p >= enough[0]).mean()))


def test_bins_hold_every_image_once() -> None:
    bins = reliability([0.0, 1 / 15, 0.5, 1.0], [False, True, True, True])
    assert sum(one.images for one in bins) == 4
    assert [one.images for one in bins] == [2, 1, 1]
    assert all(one.low < one.high for one in bins)
    assert math.isnan(expected_calibration_error([], []))
