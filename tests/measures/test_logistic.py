"""Logistic regressions of any number of labels, against scipy's minimum of each class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from gtacli.measures.logistic import fit_logistic


@pytest.mark.parametrize("c", [0.01, 1.0, 10.0])
@pytest.mark.parametrize(("n", "width"), [(12, 20), (60, 5)])
def test_each_class_is_a_regression_of_its_own(c: float, n: int, width: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, width)) + 2
    labels = (rng.random((n, 3)) < [0.5, 0.1, 0.0]).astype(float)
    weights, biases = fit_logistic(
        torch.from_numpy(x)[None].float(), torch.from_numpy(labels)[None], 3, c, 20_000, 1e-6
    )
    logits = x @ weights[0].double().numpy().T + biases[0].double().numpy()
    for k in range(2):

        def loss(v: np.ndarray, y: np.ndarray = labels[:, k]) -> float:  # type: ignore[type-arg]
            z = x @ v[:-1] + v[-1]
            return float(c * (np.logaddexp(0, z) - y * z).sum() + v[:-1] @ v[:-1] / 2)

        best = minimize(loss, np.zeros(width + 1), method="BFGS", options={"gtol": 1e-7}).x
        assert logits[:, k] == pytest.approx(x @ best[:-1] + best[-1], abs=5e-3)
    assert np.isfinite(logits).all()
    assert (logits[:, 2] < 0).all()
