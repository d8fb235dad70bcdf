"""The metrics of any number of labels, against plain formulas and torchmetrics' other functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multilabel_ranking_average_precision

from gtacli.measures.multilabel import best_threshold, map_interval, ranking_precision, score_labels

seeds = st.integers(0, 10**6)


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n, k = (int(i) for i in torch.randint(1, 9, (2,), generator=generator))
    labels = (torch.rand(n, k, generator=generator) < 0.3).float()
    return torch.randn(n, k, generator=generator), labels


def plain_ap(scores: np.ndarray, truth: np.ndarray) -> float:  # type: ignore[type-arg]
    order = np.argsort(-scores)
    hits = truth[order]
    return float((hits * hits.cumsum() / np.arange(1, len(hits) + 1)).sum() / hits.sum())


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_scores_by_plain_formulas(seed: int) -> None:
    logits, labels = draw(seed)
    found = score_labels(logits, labels)
    truth, guess = labels.numpy() > 0, logits.numpy() > 0
    seen = [k for k in range(labels.shape[1]) if truth[:, k].any()]
    if not seen:
        assert found[:3] == (None, None, None)
        return
    ap = [plain_ap(logits.numpy()[:, k], truth[:, k]) for k in seen]
    right = (truth & guess).sum(0)
    f1 = 2 * right / np.maximum(1, truth.sum(0) + guess.sum(0))
    assert found.map == pytest.approx(np.mean(ap), abs=1e-6)
    assert found.f1_macro == pytest.approx(f1[seen].mean(), abs=1e-6)
    assert found.f1_micro == pytest.approx(2 * right.sum() / (truth.sum() + guess.sum()), abs=1e-6)
    for k, one in enumerate(found.by_class):
        assert (one is None) == (k not in seen)
        if one is not None:
            expected = (plain_ap(logits.numpy()[:, k], truth[:, k]), f1[k], truth[:, k].sum())
            assert one == pytest.approx(expected, abs=1e-6)


def micro_f1(guess: np.ndarray, truth: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(2 * (guess & truth).sum() / max(1, guess.sum() + truth.sum()))


@settings(max_examples=100, deadline=None)
@given(seeds, st.booleans())
def test_no_threshold_has_a_higher_f1(seed: int, equal: bool) -> None:
    """Also where many probabilities are equal, which are predicted together."""
    logits, labels = draw(seed)
    p = (logits.round() if equal else logits).double().sigmoid()
    found = best_threshold(p, labels)
    chances, truth = p.numpy(), labels.numpy() > 0
    if not truth.any():
        assert found is None
        return
    assert found is not None
    assert 0 <= found < 1
    every = [0.0, *np.unique(chances)]
    best = max(micro_f1(chances > one, truth) for one in every)
    assert micro_f1(chances > found, truth) == pytest.approx(best)


def test_the_threshold_is_in_the_middle() -> None:
    p = torch.tensor([[0.9, 0.2], [0.6, 0.1]])
    assert best_threshold(p, torch.tensor([[1, 0], [1, 0]])) == pytest.approx(0.4)
    assert best_threshold(p, torch.ones(2, 2)) == pytest.approx(0.05)
    near = torch.tensor([[0.5, float(np.nextafter(0.5, 1))]], dtype=torch.float64)
    assert best_threshold(near, torch.tensor([[0, 1]])) == 0.5


def test_large_logits_keep_their_order() -> None:
    """In single precision both probabilities would be 1."""
    found = score_labels(torch.tensor([[20.0], [22.0]]), torch.tensor([[0.0], [1.0]]))
    assert found.map == 1


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_precision_of_rankings(seed: int) -> None:
    logits, labels = draw(seed)
    some = labels.sum(1) > 0
    found = ranking_precision(logits, labels)
    assert len(found) == int(some.sum())
    if labels.shape[1] > 1 and some.any():
        theirs = multilabel_ranking_average_precision(
            logits[some].sigmoid().double(), labels[some].long(), labels.shape[1]
        )
        assert float(found.mean()) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("block", [1 << 22, 30 * 7, 1])
def test_the_interval_is_that_of_drawn_images(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the metric on repeated images, of the same draws; ties aside."""
    monkeypatch.setattr("gtacli.measures.multilabel._BLOCK", block)  # draws at a time
    generator = torch.Generator().manual_seed(3)
    labels = (torch.rand(30, 4, generator=generator) < 0.3).float()
    logits = labels + torch.randn(30, 4, generator=generator)
    low, high = map_interval(logits, labels, seed=5, draws=200) or (0.0, 0.0)
    drawn = np.random.default_rng(5).multinomial(30, np.full(30, 1 / 30), 200)
    values = []
    for counts in drawn:
        rows = torch.arange(30).repeat_interleave(torch.from_numpy(counts))
        found = score_labels(logits[rows], labels[rows]).map
        assert found is not None
        values.append(found)
    # torchmetrics takes equal scores together, as here copies of an image are.
    assert [low, high] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1e-6)
    assert map_interval(logits, torch.zeros(30, 4)) is None
