"""`gta probe fewshot`: what a few labelled images of each class are enough for.

Of the training images n of each class are drawn, several times over; from these alone three
classifiers are made on L2-normalised features, and all test images are asked:

    linear    logistic regression, as in Tian et al. (arXiv 2003.11539): on unit vectors, L2 penalty
    centroid  the nearest of the classes' means (Snell et al., arXiv 1703.05175; on unit vectors)
    knn       DINO's vote of the k nearest (`gtacli.measures.neighbors`)

An accuracy is the mean over draws, with Student's interval over them: it says what other images
would have given, on the same test images. Nothing is chosen: c, k and the temperature are given.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gtacli.measures.logistic import fit
from gtacli.measures.neighbors import TEMPERATURE, knn_hits, nearest
from gtacli.measures.statistics import mean_interval
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.cache import Features
from gtacli.probing.features.evaluation import Bench, Outcome

log = logging.getLogger(__name__)
Method = Literal["linear", "centroid", "knn"]
METHODS: tuple[Method, ...] = get_args(Method)
NUMBERS = 1 << 25
"""Of the problems that are solved together, or of the logits of some test images."""


def fewshot(
    bench: Bench,
    model: LoadedModel,
    shots: Sequence[int] = (1, 5, 10),
    draws: int = 20,
    methods: Sequence[Method] = METHODS,
    c: float = 10.0,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> Outcome:
    """Accuracy for each number of images a class.

    Figures: `fewshot`, {n: {method: share}} · `fewshot_interval` · `fewshot_sd`, over the draws ·
    `short_classes`, {n: classes that have fewer images, and give all they have}.
    """
    train, test = bench.see(model, bench.parts.train), bench.see(model, bench.parts.test)
    labels = train.labels.numpy()
    # Of a large set few images are ever drawn, and no others are read.
    used = torch.from_numpy(np.unique(draw(labels, max(shots), draws, bench.seed)))
    task = _Task.of(train, used, test, bench.cache.compute.device)
    classify = {
        "linear": lambda chosen: _linear(task, chosen, c),
        "centroid": lambda chosen: _centroid(task, chosen),
        "knn": lambda chosen: _knn(task, chosen, k, temperature),
    }
    shares: dict[str, dict[str, NDArray[np.float64]]] = {}
    each: dict[str, NDArray[np.float64]] = {}
    for n in shots:
        drawn = torch.from_numpy(draw(labels, n, draws, bench.seed))
        chosen = torch.searchsorted(used, drawn)
        for method in methods:
            right = classify[method](chosen.to(task.bank.device))
            hits = torch.stack([one.cpu() for one in right]).double().numpy()  # (draws, test)
            shares.setdefault(str(n), {})[method] = hits.mean(1)
            each[f"{method}@{n}"] = hits.mean(0)
    figures: dict[str, Any] = {
        "fewshot": _of(shares, lambda of: float(of.mean())),
        "fewshot_interval": _of(shares, lambda of: [*mean_interval(of)]),
        "fewshot_sd": _of(shares, lambda of: float(of.std(ddof=1)) if draws > 1 else None),
        "draws": draws,
        "c": c,
        "k": k,
        "temperature": temperature,
        "short_classes": _short(train, shots),
    }
    return Outcome(figures, len(train), len(test), test.keys, each)


def draw(labels: NDArray[np.int64], n: int, draws: int, seed: int = 0) -> NDArray[np.int64]:
    """(draws, N) rows of n random images of each class, all where there are fewer.

    A draw depends on nothing but the labels, the seed and its number, and the first images of a
    larger n are those of a smaller one.
    """
    rows = []
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for number in range(draws):
        rng = np.random.default_rng((seed, number))
        rows.append(np.concatenate([rng.permutation(of)[:n] for of in members]))
    return np.stack(rows)


def _short(train: Features, shots: Sequence[int]) -> dict[str, int]:
    counts = np.bincount(train.labels.numpy())
    counts = counts[counts > 0]
    short = {str(n): int((counts < n).sum()) for n in shots}
    for n, classes in short.items():
        if classes:
            log.warning("%d classes have fewer than %s training images, and give all", classes, n)
    return {n: classes for n, classes in short.items() if classes}


@dataclass(frozen=True)
class _Task:
    """Attributes:
    bank, labels: (T, C) unit vectors of the training images that are used, and their classes, of
        which there are `classes`, counted without those that have none.
    asked, truth: the same of the test images; the class after the last one is any that no
        training image has.
    """

    bank: Tensor
    labels: Tensor
    asked: Tensor
    truth: Tensor
    classes: int

    @classmethod
    def of(cls, train: Features, used: Tensor, test: Features, device: torch.device) -> _Task:
        given = torch.cat([column[used] for column in train.columns.values()], 1), test.values
        bank, asked = (F.normalize(values.to(device), dim=1) for values in given)
        present, labels = train.labels[used].unique(return_inverse=True)
        place = torch.searchsorted(present, test.labels).clamp_max(len(present) - 1)
        truth = torch.where(present[place] == test.labels, place, len(present))
        return cls(bank, labels.to(device), asked, truth.to(device), len(present))

    def right(self, weights: Tensor, intercepts: Tensor) -> Tensor:
        """bool (test,) of a linear classifier (K, C) and (K,)."""
        rows = max(1, NUMBERS // len(weights))
        found = [(part @ weights.T + intercepts).argmax(1) for part in self.asked.split(rows)]
        return torch.cat(found) == self.truth


def _linear(task: _Task, chosen: Tensor, c: float) -> Iterator[Tensor]:
    """Whether each test image is right, draw by draw."""
    each = chosen.shape[1] * max(task.classes, task.bank.shape[1])
    for rows in chosen.split(max(1, NUMBERS // each)):
        found = fit(task.bank[rows], task.labels[rows], task.classes, c)
        yield from (task.right(w, b) for w, b in zip(*found, strict=True))


def _centroid(task: _Task, chosen: Tensor) -> Iterator[Tensor]:
    for rows in chosen:
        labels = task.labels[rows]
        sums = task.bank.new_zeros(task.classes, task.bank.shape[1])
        sums.index_add_(0, labels, task.bank[rows])
        means = sums / torch.bincount(labels, minlength=task.classes)[:, None]
        # |x - m|^2 = |x|^2 - 2 x m + |m|^2
        yield task.right(means, -means.square().sum(1) / 2)


def _knn(task: _Task, chosen: Tensor, k: int, temperature: float) -> Iterator[Tensor]:
    for rows in chosen:
        found = nearest(task.asked, task.bank[rows], k)
        labels, classes = task.labels[rows], task.classes + 1
        yield knn_hits(found, labels, task.truth, classes, [k], temperature)[k].top1


def _of(shares: dict[str, dict[str, NDArray[np.float64]]], make: Any) -> dict[str, dict[str, Any]]:
    return {n: {method: make(of) for method, of in by.items()} for n, by in shares.items()}
