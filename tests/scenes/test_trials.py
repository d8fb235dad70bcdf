"""Tests of the scenes that calibrate object discovery."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gtacli.scenes.scene import paint
from gtacli.scenes.scenery import SCENERY
from gtacli.scenes.trials import draw_trial
from gtacli.scenes.world import DEMO

CORNER, END = slice(16), slice(-16, None)


def test_trials_are_reproducible_and_differ() -> None:
    image, mask = draw_trial(5, 48)
    again, same = draw_trial(5, 48)
    other, _ = draw_trial(6, 48)
    assert image.shape == (48, 48, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, again)
    assert np.array_equal(mask, same)
    assert not np.array_equal(image, other)


@pytest.mark.parametrize("index", range(24))
def test_creature_has_a_plausible_size(index: int) -> None:
    _, mask = draw_trial(index, 64)
    assert mask.dtype == bool
    assert 0.03 < mask.mean() < 0.5


def corner_difference(image: NDArray[np.uint8]) -> float:
    """Return the largest difference of a channel's mean between two corners."""
    means = [image[y, x].mean((0, 1)) for y in (CORNER, END) for x in (CORNER, END)]
    return max(float(np.abs(a - b).max()) for a in means for b in means)


def test_ground_combines_two_sceneries() -> None:
    plain = [
        np.asarray(paint(DEMO.species[k], name, np.random.default_rng(k), 64)[0])
        for k, name in enumerate(SCENERY)
    ]
    ours = [corner_difference(draw_trial(k, 64)[0]) for k in range(24)]
    assert np.median(ours) > 1.5 * np.median([corner_difference(image) for image in plain])


def test_trial_of_another_size_has_the_same_area() -> None:
    small, large = draw_trial(3, 48)[1], draw_trial(3, 96)[1]
    assert abs(small.mean() - large.mean()) < 0.25
