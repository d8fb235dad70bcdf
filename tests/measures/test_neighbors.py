"""Tests of nearest neighbors against a sort in float64, and of votes against explicit sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gtacli.errors import RunError
from gtacli.measures.neighbors import (
    Neighbors,
    count_hits,
    count_votes,
    evaluate_knn,
    find_neighbors,
)


def reference(queries: Tensor, keys: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find neighbors by a stable sort of all similarities."""
    q, t = (x.double().numpy() for x in (queries, keys))
    q, t = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (q, t))
    similarities = q @ t.T
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, order, 1), order


@given(
    queries=st.integers(1, 9),
    keys=st.integers(1, 90),
    k=st.integers(1, 100),
    chunk=st.sampled_from([1, 7, 64, 1000, None]),
    seed=st.integers(0, 2**31),
)
def test_the_neighbours_are_those_of_a_sort_in_float64(
    queries: int, keys: int, k: int, chunk: int | None, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    q, t = (torch.randn(n, 6, generator=rng) for n in (queries, keys))
    found = find_neighbors(q, t, k, chunk)
    similarities, _ = reference(q, t, k)
    np.testing.assert_allclose(found.similarities, similarities, atol=1e-6)
    # They belong to the returned indices; two within a rounding error may be swapped.
    everything, order = reference(q, t, keys)
    by_key = np.take_along_axis(everything, np.argsort(order, 1), 1)
    named = np.take_along_axis(by_key, found.indices.numpy(), 1)
    np.testing.assert_allclose(named, similarities, atol=1e-6)
    assert all(len(set(row)) == len(row) for row in found.indices.tolist())


@given(
    axes=st.lists(st.integers(-4, 4), min_size=1, max_size=200),
    k=st.integers(1, 40),
    chunk=st.sampled_from([1, 30, 500, None]),
)
def test_among_equal_keys_the_lower_index_comes_first(
    axes: list[int], k: int, chunk: int | None
) -> None:
    """Along the axes all similarities are -1, 0 or 1 without rounding: nearly all are ties."""
    signs = torch.tensor([0.0 if a == 0 else math.copysign(1, a) for a in axes])
    keys = torch.eye(5)[[abs(a) for a in axes]] * signs[:, None]  # 0: a row of zeros
    queries = torch.eye(5)[1:] * 3
    found = find_neighbors(queries, keys, k, chunk)
    similarities, indices = reference(queries, keys, k)
    assert torch.equal(found.indices, torch.from_numpy(indices))
    assert torch.equal(found.similarities, torch.from_numpy(similarities).float())


def test_many_keys_go_through_the_maxima_of_groups() -> None:
    rng = torch.Generator().manual_seed(0)
    q, t = (torch.randn(n, 16, generator=rng) for n in (50, 3000))
    t[2000:2010] = t[:10]  # the same images twice
    for k in (1, 20, 200):
        found = find_neighbors(q, t, k)
        similarities, indices = reference(q, t, k)
        np.testing.assert_allclose(found.similarities, similarities, atol=1e-6)
        assert (found.indices.numpy() == indices).mean() > 0.999


def test_half_precision_and_empty_inputs() -> None:
    q, t = torch.randn(3, 8), torch.randn(5, 8)
    half = find_neighbors(q.half(), t.half(), 2)
    assert half.similarities.dtype == torch.float32
    assert torch.equal(half.indices, find_neighbors(q.half().float(), t.half().float(), 2).indices)
    assert find_neighbors(q, t[:0], 4).indices.shape == (3, 0)
    assert find_neighbors(q[:0], t, 4).indices.shape == (0, 4)


def test_autocast_does_not_lower_the_precision() -> None:
    q, t = torch.randn(4, 64), torch.randn(100, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = find_neighbors(q, t, 5)
    assert torch.equal(inside.similarities, find_neighbors(q, t, 5).similarities)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    t = torch.randn(5, 8)
    t[3, 2] = bad
    with pytest.raises(RunError, match="not finite"):
        find_neighbors(torch.randn(3, 8), t, 2)


@given(
    n=st.integers(0, 30),
    classes=st.integers(1, 7),
    temperature=st.sampled_from([0.07, 1.0, 0.001]),
    seed=st.integers(0, 2**31),
)
def test_votes_are_sums_of_weights(n: int, classes: int, temperature: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cosines = -np.sort(-rng.uniform(-1, 1, (4, n)), axis=1)
    labels = rng.integers(0, classes, (4, n))
    found = count_votes(
        torch.from_numpy(cosines), torch.from_numpy(labels), classes, (1, 5, 20), temperature
    )
    for k, scores in found.items():
        for i in range(4):
            weights = [math.exp((c - cosines[i, 0]) / temperature) for c in cosines[i, :k]]
            by_class = [
                math.fsum(w for w, label in zip(weights, labels[i], strict=False) if label == c)
                for c in range(classes)
            ]
            total = math.fsum(weights) or 1.0
            np.testing.assert_allclose(scores[i], np.array(by_class) / total, rtol=1e-12, atol=0)


def test_a_class_without_a_vote_is_never_predicted() -> None:
    scores = torch.tensor([[0.5, 0.0, 0.5, 0.0]]).expand(4, 4)
    top1, top5 = count_hits(scores, torch.arange(4))
    assert top1.tolist() == [True, False, False, False]  # the lower of equal classes
    assert top5.tolist() == [True, False, True, False]


def test_the_sixth_class_is_not_in_the_top_five() -> None:
    scores = torch.linspace(1, 0.1, 8).expand(8, 8)
    top1, top5 = count_hits(scores, torch.arange(8))
    assert top1.tolist() == [True] + [False] * 7
    assert top5.tolist() == [True] * 5 + [False] * 3


def test_the_accuracy_does_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(1)
    found = find_neighbors(torch.randn(40, 8, generator=rng), torch.randn(60, 8, generator=rng), 30)
    key_labels = torch.randint(0, 5, (60,), generator=rng)
    labels = torch.randint(0, 6, (40,), generator=rng)  # no key has class 5
    whole = {
        k: count_hits(scores, labels)
        for k, scores in count_votes(
            found.similarities, key_labels[found.indices], 6, (3, 100)
        ).items()
    }
    huge = 1 << 21  # so many classes that the queries come in pairs
    pieces = evaluate_knn(found, key_labels, labels, huge, (3, 100))
    for k in (3, 100):
        assert torch.equal(pieces[k].top1, whole[k].top1)
        assert torch.equal(pieces[k].top5, whole[k].top5)
    assert not whole[3].top1[labels == 5].any()


def test_three_queries_one_class() -> None:
    found = find_neighbors(torch.randn(3, 4), torch.randn(2, 4), 20)
    assert isinstance(found, Neighbors)
    zeros = torch.zeros(3, dtype=torch.int64)
    result = evaluate_knn(found, zeros[:2], zeros, 1, (20,))
    assert result[20].top1.all()


def test_threads_find_the_same() -> None:
    q, t = torch.randn(70, 12), torch.randn(500, 12)
    alone = find_neighbors(q, t, 9, chunk=4000)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        shared = find_neighbors(q, t, 9, chunk=4000)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert torch.equal(shared.indices, alone.indices)
    torch.testing.assert_close(shared.similarities, alone.similarities, atol=1e-6, rtol=0)
