"""The scenes on which back-ends are tried."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gtacli.scenes.scene import paint
from gtacli.scenes.scenery import SCENERY
from gtacli.scenes.trials import draw_trial
from gtacli.scenes.world import DEMO

CORNER, END = slice(16), slice(-16, None)


def test_a_trial_is_the_same_every_time_and_unlike_the_others() -> None:
    image, mask = draw_trial(5, 48)
    again, same = draw_trial(5, 48)
    other, _ = draw_trial(6, 48)
    assert image.shape == (48, 48, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, again)
    assert np.array_equal(mask, same)
    assert not np.array_equal(image, other)


@pytest.mark.parametrize("index", range(24))
def test_a_creature_is_whole_and_of_some_size(index: int) -> None:
    _, mask = draw_trial(index, 64)
    assert mask.dtype == bool
    assert 0.03 < mask.mean() < 0.5


def corners_apart(image: NDArray[np.uint8]) -> float:
    """Largest difference of a channel's mean between two corners."""
    means = [image[y, x].mean((0, 1)) for y in (CORNER, END) for x in (CORNER, END)]
    return max(float(np.abs(a - b).max()) for a in means for b in means)


def test_two_grounds_meet_behind_the_creature() -> None:
    plain = [
        np.asarray(paint(DEMO.species[k], name, np.random.default_rng(k), 64)[0])
        for k, name in enumerate(SCENERY)
    ]
    ours = [corners_apart(draw_trial(k, 64)[0]) for k in range(24)]
    assert np.median(ours) > 1.5 * np.median([corners_apart(image) for image in plain])


def test_a_trial_of_another_size_is_another_drawing_of_its_kind() -> None:
    small, large = draw_trial(3, 48)[1], draw_trial(3, 96)[1]
    assert abs(small.mean() - large.mean()) < 0.25
