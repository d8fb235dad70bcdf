"""Every metric against plain loops over pixels, thresholds and images."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gtacli.discovery.masks import box_around
from gtacli.discovery.metrics import Totals, box_iou, f_beta, iou, score, true_boxes

shapes = st.tuples(st.integers(1, 7), st.integers(1, 7))


def loop_iou(a: np.ndarray, b: np.ndarray) -> float:
    both = either = 0
    for x, y in zip(a.ravel(), b.ravel(), strict=True):
        both += bool(x) and bool(y)
        either += bool(x) or bool(y)
    return both / either if either else 1.0


def loop_f(soft: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    found = right = true = 0
    for s, t in zip(soft.ravel(), truth.ravel(), strict=True):
        found += s > threshold
        right += s > threshold and bool(t)
        true += bool(t)
    precision = right / found if found else 1.0
    recall = right / true if true else 1.0
    return 1.3 * precision * recall / (0.3 * precision + recall) if precision + recall else 0.0


def flooded_boxes(truth: np.ndarray) -> list[list[int]]:
    """Boxes of the 8-connected components, by flooding."""
    left, boxes = {(int(y), int(x)) for y, x in np.argwhere(truth)}, []
    while left:
        start = min(left)
        left.remove(start)
        queue, ys, xs = deque([start]), [start[0]], [start[1]]
        while queue:
            y, x = queue.popleft()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            queue.extend(near)
            ys += [p[0] for p in near]
            xs += [p[1] for p in near]
        boxes.append([min(xs), min(ys), max(xs) + 1, max(ys) + 1])
    return boxes


def painted_iou(a: list[int], b: list[int]) -> float:
    canvas = np.zeros((2, 20, 20), bool)
    for layer, (x0, y0, x1, y1) in zip(canvas, (a, b), strict=True):
        layer[y0:y1, x0:x1] = True
    return loop_iou(*canvas)


def example(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    h, w = rng.integers(3, 12, 2)
    truth = rng.random((h, w)) > rng.random()
    soft = np.round(rng.random((h, w)) * 255 * rng.choice([1, 1.7])) / 255  # many on a threshold
    return rng.random((h, w)) > rng.random(), soft, truth, rng.random((3, h, w)) > 0.5


@given(data=st.data(), shape=shapes)
def test_iou(data: st.DataObject, shape: tuple[int, int]) -> None:
    a, b = data.draw(arrays(bool, shape)), data.draw(arrays(bool, shape))
    assert iou(a, b) == pytest.approx(loop_iou(a, b))


@given(st.lists(st.integers(0, 18), min_size=4, max_size=4), st.integers(0, 99))
def test_iou_of_boxes(corner: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = [*corner[:2], *(int(rng.integers(c + 1, 21)) for c in corner[:2])]
    b = [*corner[2:], *(int(rng.integers(c + 1, 21)) for c in corner[2:])]
    assert box_iou(a, b) == pytest.approx(painted_iou(a, b))


@given(arrays(bool, shapes))
def test_true_boxes(truth: np.ndarray) -> None:
    assert sorted(true_boxes(truth)) == sorted(flooded_boxes(truth))


@pytest.mark.parametrize("seed", range(8))
def test_f_at_each_threshold(seed: int) -> None:
    _, soft, truth, _ = example(np.random.default_rng(seed))
    expected = [loop_f(soft, truth, k / 255) for k in range(255)]
    np.testing.assert_allclose(f_beta(soft, truth), expected, atol=1e-12)


@pytest.mark.parametrize("truth", [False, True])
@pytest.mark.parametrize("soft", [0.0, 0.3, 1.0])
def test_f_of_nothing(soft: float, truth: bool) -> None:
    maps, masks = np.full((2, 3), soft), np.full((2, 3), truth)
    expected = [loop_f(maps, masks, k / 255) for k in range(255)]
    np.testing.assert_allclose(f_beta(maps, masks), expected, atol=1e-12)


def test_means_over_images() -> None:
    rng = np.random.default_rng(5)
    examples = [example(rng) for _ in range(6)]
    totals = Totals()
    for mask, soft, truth, heads in examples:
        totals.add(score(mask, box_around(mask), soft, truth, heads))
    curves = [[loop_f(s, t, k / 255) for k in range(255)] for _, s, t, _ in examples]
    located = []
    for mask, _, truth, _ in examples:
        box = box_around(mask)
        true = flooded_boxes(truth)
        located.append(box is not None and any(painted_iou(box, b) >= 0.5 for b in true))
    assert any(located)
    expected = {
        "mean_iou": np.mean([loop_iou(m, t) for m, _, t, _ in examples]),
        "jaccard": np.mean([max(loop_iou(h, t) for h in heads) for _, _, t, heads in examples]),
        "corloc": np.mean(located),
        "max_f_beta": max(np.mean(curves, 0)),
        "accuracy": np.mean([np.mean(m == t) for m, _, t, _ in examples]),
    }
    assert totals.means() == pytest.approx(expected)


def test_without_heads_and_without_images() -> None:
    mask, soft, truth, _ = example(np.random.default_rng(1))
    totals = Totals()
    assert set(totals.means().values()) == {None}
    totals.add(score(mask, None, soft, truth))
    assert totals.means()["jaccard"] is None
    assert totals.means()["corloc"] == 0
