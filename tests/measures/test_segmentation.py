"""Tests of every metric against loops over pixels, thresholds and images."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gtacli.discovery.masks import box_around
from gtacli.measures.segmentation import (
    SegmentationScore,
    SegmentationTotals,
    best_head_jaccard,
    box_iou,
    component_boxes,
    f_beta,
    iou,
    is_located,
    object_boxes,
    score_segmentation,
)

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
    """Find the boxes of the 8-connected components by flooding."""
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
    soft = (
        np.round(rng.random((h, w)) * 255 * rng.choice([1, 1.7])) / 255
    )  # many values equal a threshold
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
def test_component_boxes(truth: np.ndarray) -> None:
    assert sorted(component_boxes(truth)) == sorted(flooded_boxes(truth))


@pytest.mark.parametrize("seed", range(8))
def test_f_at_each_threshold(seed: int) -> None:
    _, soft, truth, _ = example(np.random.default_rng(seed))
    expected = [loop_f(soft, truth, k / 255) for k in range(255)]
    np.testing.assert_allclose(f_beta(soft, truth), expected, atol=1e-12)


@pytest.mark.parametrize("truth", [False, True])
@pytest.mark.parametrize("soft", [0.0, 0.3, 1.0])
def test_f_of_constant_maps_and_masks(soft: float, truth: bool) -> None:
    maps, masks = np.full((2, 3), soft), np.full((2, 3), truth)
    expected = [loop_f(maps, masks, k / 255) for k in range(255)]
    np.testing.assert_allclose(f_beta(maps, masks), expected, atol=1e-12)


def make_labels(rng: np.random.Generator) -> np.ndarray:
    """Make labels with objects up to number 40, background and void."""
    h, w = rng.integers(3, 12, 2)
    some = [-1, 0, 0, *rng.integers(1, 41, 2)]
    coarse = rng.choice(some, (h // 2 + 1, w // 2 + 1))
    return np.kron(coarse, np.ones((2, 2), int))[:h, :w].astype(np.int32)


def drop_void(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    pairs = zip(values.ravel(), labels.ravel(), strict=True)
    return np.array([value for value, label in pairs if label != -1])


def loop_jaccard(heads: np.ndarray, labels: np.ndarray) -> float | None:
    ids = sorted({int(n) for n in labels.ravel()} - {0, -1})
    if not ids:
        return None
    best = []
    for number in ids:
        truth = drop_void(labels, labels) == number
        best.append(max(loop_iou(drop_void(head, labels), truth) for head in heads))
    return sum(best) / len(best)


def loop_located(boxes: list[list[int]], labels: np.ndarray) -> bool | None:
    ids = sorted({int(n) for n in labels.ravel()} - {0, -1})
    true = [box for number in ids for box in flooded_boxes(labels == number)]
    return any(painted_iou(a, b) >= 0.5 for a in boxes for b in true) if true else None


def around(mask: np.ndarray) -> list[list[int]]:
    box = box_around(mask)
    return [] if box is None else [box]


def test_means_over_images() -> None:
    """Images with void, without an object, or with only boxes count for the metrics they have."""
    rng = np.random.default_rng(5)
    totals = SegmentationTotals()
    by_name: dict[str, list[float]] = {
        name: [] for name in ("mean_iou", "jaccard", "corloc", "accuracy")
    }
    curves = []
    for i in range(12):
        labels = make_labels(rng) if i else np.zeros((4, 5), np.int32)
        h, w = labels.shape
        mask, heads = rng.random((h, w)) > rng.random(), rng.random((3, h, w)) > 0.5
        soft = np.round(rng.random((h, w)) * 255) / 255
        others = [
            list(box) for box in flooded_boxes(rng.random((h, w)) > 0.7)
        ]  # boxes of other objects
        boxes = around(mask) + others
        totals.add(score_segmentation(mask, soft, labels, boxes, best_head_jaccard(heads, labels)))
        truth = drop_void(labels, labels) > 0
        by_name["mean_iou"].append(loop_iou(drop_void(mask, labels), truth))
        right = [m == t for m, t in zip(drop_void(mask, labels), truth, strict=True)]
        by_name["accuracy"].append(sum(right) / len(right))
        values = drop_void(soft, labels)
        curves.append([loop_f(values, truth, k / 255) for k in range(255)])
        for name, value in (
            ("jaccard", loop_jaccard(heads, labels)),
            ("corloc", loop_located(boxes, labels)),
        ):
            if value is not None:
                by_name[name].append(value)
    assert len(by_name["jaccard"]) == len(by_name["corloc"]) == 10  # two are empty
    assert 0 < sum(by_name["corloc"]) < 10
    totals.add(SegmentationScore(located=True))  # only boxes
    by_name["corloc"].append(1)
    expected = {name: sum(values) / len(values) for name, values in by_name.items()}
    expected["max_f_beta"] = max(np.mean(curves, 0))
    assert totals.means() == pytest.approx(expected)
    assert totals.count == 13


@pytest.mark.parametrize("seed", range(20))
def test_best_head_jaccard_and_object_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = make_labels(rng)
    heads = rng.random((4, *labels.shape)) > 0.4
    assert best_head_jaccard(heads, labels) == pytest.approx(loop_jaccard(heads, labels))
    ids = sorted({int(n) for n in labels.ravel()} - {0, -1})
    flooded = [box for number in ids for box in flooded_boxes(labels == number)]
    assert sorted(object_boxes(labels)) == sorted(flooded)


def test_located_by_any_object() -> None:
    true = [[0, 0, 4, 4], [10, 10, 12, 12]]
    assert is_located([[0, 0, 4, 2]], true) is True  # exactly a half
    assert is_located([[0, 0, 4, 1]], true) is False
    assert is_located([[0, 0, 4, 1], [10, 10, 12, 12]], true) is True
    assert is_located([], true) is False
    assert is_located([[0, 0, 1, 1]], []) is None
    assert is_located([[0, 0, 0, 0]], [[1, 1, 1, 1]]) is False  # a box without an area


def test_torchmetrics_agrees_on_binary_masks() -> None:
    import torch
    from torchmetrics.functional.classification import binary_accuracy, binary_jaccard_index

    rng = np.random.default_rng(3)
    for _ in range(5):
        mask, soft, truth, _ = example(rng)
        labels = np.where(rng.random(truth.shape) > 0.8, -1, truth).astype(np.int32)
        one = score_segmentation(mask, soft, labels)
        tensors = torch.from_numpy(mask.astype(int)), torch.from_numpy(labels)
        assert one.iou == pytest.approx(float(binary_jaccard_index(*tensors, ignore_index=-1)))
        assert one.accuracy == pytest.approx(float(binary_accuracy(*tensors, ignore_index=-1)))


def test_all_void() -> None:
    mask = np.ones((2, 2), bool)
    one = score_segmentation(mask, mask.astype(float), np.full((2, 2), -1, np.int32))
    assert one.accuracy is None
    assert one.located is None
    assert best_head_jaccard(mask[None], np.full((2, 2), -1, np.int32)) is None


def test_without_heads_and_without_images() -> None:
    mask, soft, truth, _ = example(np.random.default_rng(1))
    totals = SegmentationTotals()
    assert set(totals.means().values()) == {None}
    totals.add(score_segmentation(mask, soft, truth.astype(np.int32)))
    assert totals.means()["jaccard"] is None
    assert totals.means()["corloc"] == 0
