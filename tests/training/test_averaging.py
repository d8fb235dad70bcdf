"""Tests of the mean of the weights over the end of a training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gtacli.training.averaging import TrajectoryMean, mean_decay


@given(st.integers(1, 3000))
def test_recursion_is_the_mean_of_the_last_quarter(steps: int) -> None:
    values = np.random.default_rng(steps).normal(size=steps)
    mean = 0.0
    for done, value in enumerate(values):
        decay = mean_decay(done, done / steps)
        mean = decay * mean + (1 - decay) * value
    count = max(1, math.floor(steps / 4))
    assert mean == pytest.approx(values[-count:].mean(), abs=1e-9)


def test_before_the_last_part_the_weights_are_the_own_ones() -> None:
    module = nn.Linear(2, 3)
    mean = TrajectoryMean(module)
    seen = []
    for done in range(8):
        with torch.no_grad():
            module.weight.fill_(float(done**2))
        mean.progress = done / 8
        mean.update(module, step=done + 1)
        seen.append(mean.module.weight[0, 0].item())
    assert seen == [0, 1, 4, 9, 16, 25, 36, (36 + 49) / 2]
