"""Logistic regression that is chosen by cross-validation.

Chosen among 52 heads on fifty images, the best one is best by luck. So here

- a head is the minimum of a convex function (`gtacli.measures.logistic`) of standardized features,
  scaled as in `heads` to a mean squared length of 1, so one penalty serves every model and width;
- every training image is held out once (cross-validation over stratified folds);
- the head is not the best one but the simplest within one standard error of it (Breiman et al.,
  Classification and Regression Trees, 1984): the paired error of the difference on these images.
  Simple is the order of the candidates: first features, the CLS token first, then penalties.

Shapes: n images, B of a batch, D problems, C width, K classes, H candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gtacli.data.labels import multi_hot
from gtacli.measures.logistic import fit_logistic
from gtacli.models.feature_columns import FeatureColumn
from gtacli.probing.classifiers.heads import compute_scales
from gtacli.probing.classifiers.selection import FeatureSet
from gtacli.probing.features.cache import Features, ProgressBar

PENALTIES = (10.0,)
"""Inverse strengths c of the penalty to choose from, as in `fewshot`, the preferred one first.

Accuracy is flat from 10 to 1000, and folds of few images prefer too weak a penalty.
"""
FOLDS = 5
CHOICE_TOLERANCE = 1e-3
"""Tolerance of fits that only choose."""
NUMBERS = 1 << 25
"""Numbers in memory at a time."""
_ROWS = 4096  # rows at a time in evaluation
Scale = tuple[Tensor, Tensor]
"""The mean and 1 / standard deviation of a column."""


class LogisticHead(NamedTuple):
    """A candidate.

    Attributes:
        columns: its input, side by side.
        c: inverse strength of the penalty, as scikit-learn's C.
    """

    columns: FeatureSet
    c: float


@dataclass(frozen=True)
class HeldOutScores:
    """The scores of candidates on images that they were not fitted to.

    Attributes:
        correct: bool (H, n).
        loss: (H, n), cross-entropy in nats.
    """

    correct: Tensor
    loss: Tensor

    def accuracy(self, head: int) -> float:
        return float(self.correct[head].double().mean())

    def standard_error(self, head: int) -> float:
        """Return the standard error of the accuracy."""
        return _standard_error(self.correct[head].double())

    def simplest(self) -> int:
        """Return the first candidate that is not worse than the best one by a standard error.

        The best one has the highest accuracy; ties are broken by the lower loss. The error is that
        of the paired difference.
        """
        right = self.correct.double()
        ranks = zip(right.mean(1).tolist(), (-self.loss.double().mean(1)).tolist(), strict=True)
        ranked = [*ranks]
        best = ranked.index(max(ranked))
        for head in range(best):
            behind = right[best] - right[head]
            if float(behind.mean()) <= _standard_error(behind):
                return head
        return best


class FittedHead:
    """A logistic regression on standardized features, one head by the interface of `LinearHeads`.

    Args:
        scale: mean and 1 / standard deviation of every column.
        weight, bias: (K, C) and (K,).
    """

    def __init__(
        self, columns: FeatureSet, scale: dict[FeatureColumn, Scale], weight: Tensor, bias: Tensor
    ) -> None:
        self.columns, self.scale, self.weight, self.bias = columns, scale, weight, bias
        self.classes = len(bias)

    def logits(self, features: Features, rows: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield (rows, [logits (B, K)]), some rows at a time."""
        for chosen in rows.split(_ROWS):
            inputs = _standardize(features, chosen, self.columns, self.scale)
            yield chosen, [inputs @ self.weight.T + self.bias]


class LogisticTrainer:
    """Fits heads to some of the training images.

    Args:
        classes: K.
    """

    def __init__(self, train: Features, classes: int, device: torch.device) -> None:
        self.train, self.classes, self.device = train, classes, device
        labels = train.labels if train.labels.ndim == 1 else multi_hot(train.labels, classes)
        self.labels = labels.to(device)

    def fit(self, head: LogisticHead, rows: Tensor | None = None) -> FittedHead:
        """Fit a head to some training images, by default to all."""
        used = torch.ones(1, len(self.train), dtype=torch.bool)
        if rows is not None:
            used = torch.zeros_like(used).index_fill_(1, rows, value=True)
        inputs, (scale,) = self._inputs(head.columns, used)
        weights, biases = fit_logistic(
            inputs, self.labels[None], self.classes, head.c, used=used.to(self.device)
        )
        return FittedHead(head.columns, scale, weights[0], biases[0])

    def score_on(
        self, heads: Sequence[LogisticHead], other: Features, advance: Callable[[int], object]
    ) -> HeldOutScores:
        """Fit every candidate to all training images and score it on other ones."""
        rows, labels = torch.arange(len(other)), other.labels.to(self.device)
        found = []
        for head in heads:
            logits = torch.cat([one[0] for _, one in self.fit(head).logits(other, rows)])
            found.append(_score(logits, labels))
            advance(1)
        return _stack(found)

    def cross_validate(
        self, heads: Sequence[LogisticHead], folds: Tensor, advance: Callable[[int], object]
    ) -> HeldOutScores:
        """Score every candidate on each image of a fold, fitted without this fold.

        Args:
            folds: int64 (n,), the fold of each training image; -1: always trained on.
        """
        numbers = torch.arange(int(folds.max()) + 1)
        used = folds[None] != numbers[:, None]
        columns_of = dict.fromkeys(head.columns for head in heads)
        logits = {head: torch.empty(len(folds), self.classes) for head in heads}
        for columns in columns_of:
            width = sum(self.train.columns[column].shape[1] for column in columns)
            at_once = max(1, NUMBERS // (len(folds) * max(width, self.classes)))
            for some in numbers.split(at_once):
                inputs, _ = self._inputs(columns, used[some])
                for head in (head for head in heads if head.columns == columns):
                    self._predict(head, inputs, used[some], logits[head])
                    advance(len(some))
        held = folds >= 0
        return _stack([_score(one[held], self.train.labels[held]) for one in logits.values()])

    def _predict(self, head: LogisticHead, inputs: Tensor, used: Tensor, logits: Tensor) -> None:
        """Write the logits (n, K) of the images that each problem leaves out."""
        labels = self.labels.expand(len(used), -1)
        mask = used.to(self.device)
        fitted = fit_logistic(
            inputs, labels, self.classes, head.c, tolerance=CHOICE_TOLERANCE, used=mask
        )
        for x, one, weight, bias in zip(inputs, used, *fitted, strict=True):
            logits[~one] = (x[~one.to(x.device)] @ weight.T + bias).cpu()

    def _inputs(
        self, columns: FeatureSet, used: Tensor
    ) -> tuple[Tensor, list[dict[FeatureColumn, Scale]]]:
        """Return the features (D, n, C), each standardized over a problem's images, and the scales.

        Args:
            used: bool (D, n).
        """
        every, values, scales = torch.arange(len(self.train)), [], []
        for one in used:
            scale = compute_scales(self.train, every[one], columns, self.device)
            values.append(_standardize(self.train, every, columns, scale))
            scales.append(scale)
        return torch.stack(values), scales


def choose_logistic(
    heads: Sequence[LogisticHead],
    other: Features | None,
    folds: Tensor | None,
    trainer: LogisticTrainer,
    progress: ProgressBar | None = None,
) -> tuple[int, HeldOutScores]:
    """Return the number of the chosen head, and the scores of all.

    Args:
        heads: the candidates, the simplest first.
        other: images to choose on, unless there are folds.
        folds: int64 (n,), of the training images; -1: always trained on.
    """
    make = progress or (lambda steps: nullcontext(lambda done: None))
    with make(len(heads) * (1 if folds is None else int(folds.max()) + 1)) as advance:
        if folds is None:
            assert other is not None
            scores = trainer.score_on(heads, other, advance)
        else:
            scores = trainer.cross_validate(heads, folds, advance)
    return scores.simplest(), scores


def _standardize(
    features: Features, rows: Tensor, columns: FeatureSet, scale: dict[FeatureColumn, Scale]
) -> Tensor:
    """Return the standardized columns side by side, (B, C), divided by the root of the width."""
    parts = []
    for column in columns:
        mean, inverse_std = scale[column]
        parts.append((features.columns[column][rows].to(mean.device) - mean) * inverse_std)
    values = torch.cat(parts, 1)
    return values / sqrt(values.shape[1])


def _score(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    loss = F.cross_entropy(logits, labels, reduction="none")
    return (logits.argmax(1) == labels).cpu(), loss.cpu()


def _stack(found: Sequence[tuple[Tensor, Tensor]]) -> HeldOutScores:
    correct, loss = zip(*found, strict=True)
    return HeldOutScores(torch.stack(correct), torch.stack(loss))


def _standard_error(values: Tensor) -> float:
    return float(values.std(correction=0)) / sqrt(len(values))
