"""Tests of the selection of the epoch whose weights are saved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.training.selection import is_as_good, standard_error
from gtacli.training.state import Progress


def saved_epoch(scores: list[float | None], images: int) -> tuple[int | None, float | None]:
    progress = Progress()
    for epoch, score in enumerate(scores):
        progress.end_epoch({"epoch": epoch, "val_top1": score}, images)
    return progress.best_epoch, progress.best_score


@pytest.mark.parametrize(
    ("fraction", "images", "expected"),
    # By hand: 42 of 54, 52 of 54, 5 of 7, 802 of 1004.
    [(0.8, 50, 0.0565750), (1.0, 50, 0.0256996), (1.0, 3, 0.1707469), (0.8, 1000, 0.0126521)],
)
def test_standard_error(fraction: float, images: int, expected: float) -> None:
    assert standard_error(fraction, images) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(0, 20), min_size=1), st.integers(20, 500))
def test_latest_epoch_within_error_of_the_best_of_all(hits: list[int], images: int) -> None:
    """The decisions epoch by epoch give what one decision at the end would."""
    scores = [h / images for h in hits]
    limit = max(scores) - standard_error(max(scores), images)
    latest = max(i for i, score in enumerate(scores) if score >= limit)
    assert saved_epoch([*scores], images) == (latest, scores[latest])


def test_noise_does_not_choose_but_a_collapse_does() -> None:
    # One image of fifty is two points.
    assert saved_epoch([0.60, 0.76, 0.72, 0.74, 0.72], 50) == (4, 0.72)
    assert saved_epoch([0.60, 0.76, 0.72, 0.60, 0.40], 50) == (2, 0.72)
    assert saved_epoch([0.60, 0.76, 0.72, 0.74, 0.72], 50_000) == (1, 0.76)
    assert saved_epoch([0.9, 1.0, 0.98], 50) == (2, 0.98)  # 50 of 50 is not certain


def test_ties_and_missing_scores() -> None:
    assert saved_epoch([0.5, 0.5, 0.5], 10_000) == (2, 0.5)
    assert saved_epoch([None, None], 0) == (1, None)
    assert is_as_good(0.5, [None, 0.5], 10_000)
    assert not is_as_good(0.4, [None, 0.5], 10_000)


def test_refit_saves_the_last_epoch() -> None:
    progress = Progress("refit", rows=[{"epoch": 0, "val_top1": 1.0}])
    for epoch in range(2):
        row = {"epoch": epoch, "val_top1": None, "phase": "refit"}
        assert progress.end_epoch(row, 50)
    assert (progress.best_epoch, progress.best_score) == (1, None)
