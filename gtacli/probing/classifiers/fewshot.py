"""`gta probe fewshot`: accuracy with a few labeled images of each class.

In each of several draws n training images of each class are drawn, three classifiers are fitted to
their L2-normalized features, and all test images are classified:

    linear    logistic regression, as in Tian et al. (arXiv 2003.11539): on unit vectors, L2 penalty
    centroid  the nearest class mean (Snell et al., arXiv 1703.05175; on unit vectors)
    knn       DINO's vote of the k nearest (`gtacli.measures.neighbors`)

An accuracy is the mean over draws, with Student's interval over them, for the same test images.
Nothing is chosen: c, k and the temperature are given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gtacli.measures.logistic import fit_logistic
from gtacli.measures.neighbors import TEMPERATURE, evaluate_knn, find_neighbors
from gtacli.measures.statistics import mean_interval
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.cache import Features
from gtacli.probing.features.evaluation import ProbeData, ProbeResult

log = logging.getLogger(__name__)
FewshotMethod = Literal["linear", "centroid", "knn"]
METHODS: tuple[FewshotMethod, ...] = get_args(FewshotMethod)
NUMBERS = 1 << 25
"""Numbers in memory at a time: of problems that are solved together, or of logits."""


def fewshot(
    data: ProbeData,
    model: LoadedModel,
    shots: Sequence[int] = (1, 5, 10),
    draws: int = 20,
    methods: Sequence[FewshotMethod] = METHODS,
    c: float = 10.0,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> ProbeResult:
    """Compute the accuracy for each number of shots; for the metrics see `results.FewshotResult`.

    A class with fewer images than shots gives all it has.
    """
    train, test = data.extract_all(model, (data.splits.train, data.splits.test))
    labels = train.labels.numpy()
    # Only images that are ever drawn are read: few of a large dataset.
    used = torch.from_numpy(np.unique(draw_shots(labels, max(shots), draws, data.seed)))
    task = _FewshotData.select(train, used, test, data.cache.compute.device)
    classify = {
        "linear": lambda chosen: _linear(task, chosen, c),
        "centroid": lambda chosen: _centroid(task, chosen),
        "knn": lambda chosen: _knn(task, chosen, k, temperature),
    }
    by_draw: dict[str, dict[str, NDArray[np.float64]]] = {}
    per_image: dict[str, NDArray[np.float64]] = {}
    for n in shots:
        drawn = torch.from_numpy(draw_shots(labels, n, draws, data.seed))
        chosen = torch.searchsorted(used, drawn)
        for method in methods:
            correct = classify[method](chosen.to(task.bank.device))
            hits = torch.stack([one.cpu() for one in correct]).double().numpy()  # (draws, test)
            by_draw.setdefault(str(n), {})[method] = hits.mean(1)
            per_image[f"{method}@{n}"] = hits.mean(0)
    metrics: dict[str, Any] = {
        "fewshot": _map(by_draw, lambda x: float(x.mean())),
        "fewshot_interval": _map(by_draw, lambda x: [*mean_interval(x)]),
        "fewshot_sd": _map(by_draw, lambda x: float(x.std(ddof=1)) if draws > 1 else None),
        "draws": draws,
        "c": c,
        "k": k,
        "temperature": temperature,
        "short_classes": _count_short_classes(train, shots),
    }
    return ProbeResult(metrics, len(train), len(test), test.keys, per_image)


def draw_shots(labels: NDArray[np.int64], n: int, draws: int, seed: int = 0) -> NDArray[np.int64]:
    """Draw n random images of each class, or all if there are fewer: rows (draws, N).

    A draw depends only on the labels, the seed and its number; a larger n adds images to those of a
    smaller one.
    """
    rows = []
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for number in range(draws):
        rng = np.random.default_rng((seed, number))
        rows.append(np.concatenate([rng.permutation(of)[:n] for of in members]))
    return np.stack(rows)


def _count_short_classes(train: Features, shots: Sequence[int]) -> dict[str, int]:
    counts = np.bincount(train.labels.numpy())
    counts = counts[counts > 0]
    short = {str(n): int((counts < n).sum()) for n in shots}
    for n, classes in short.items():
        if classes:
            log.warning("%d classes have fewer than %s training images; using all", classes, n)
    return {n: classes for n, classes in short.items() if classes}


@dataclass(frozen=True)
class _FewshotData:
    """The features of the training images that are drawn, and of the test images.

    Attributes:
        bank, labels: (T, C) unit vectors of the training images, and their classes, numbered
            without classes that have no image.
        queries, truth: the same for the test images; `classes` stands for any class that no
            training image has.
    """

    bank: Tensor
    labels: Tensor
    queries: Tensor
    truth: Tensor
    classes: int

    @classmethod
    def select(
        cls, train: Features, used: Tensor, test: Features, device: torch.device
    ) -> _FewshotData:
        values = torch.cat([column[used] for column in train.columns.values()], 1), test.values
        bank, queries = (F.normalize(one.to(device), dim=1) for one in values)
        present, labels = train.labels[used].unique(return_inverse=True)
        place = torch.searchsorted(present, test.labels).clamp_max(len(present) - 1)
        truth = torch.where(present[place] == test.labels, place, len(present))
        return cls(bank, labels.to(device), queries, truth.to(device), len(present))

    def classify(self, weights: Tensor, intercepts: Tensor) -> Tensor:
        """Return whether a linear classifier (K, C) and (K,) is right on each test image."""
        rows = max(1, NUMBERS // len(weights))
        found = [(some @ weights.T + intercepts).argmax(1) for some in self.queries.split(rows)]
        return torch.cat(found) == self.truth


def _linear(task: _FewshotData, chosen: Tensor, c: float) -> Iterator[Tensor]:
    """Yield whether each test image is right, draw by draw."""
    numbers = chosen.shape[1] * max(task.classes, task.bank.shape[1])
    for rows in chosen.split(max(1, NUMBERS // numbers)):
        found = fit_logistic(task.bank[rows], task.labels[rows], task.classes, c)
        yield from (task.classify(w, b) for w, b in zip(*found, strict=True))


def _centroid(task: _FewshotData, chosen: Tensor) -> Iterator[Tensor]:
    for rows in chosen:
        labels = task.labels[rows]
        sums = task.bank.new_zeros(task.classes, task.bank.shape[1])
        sums.index_add_(0, labels, task.bank[rows])
        means = sums / torch.bincount(labels, minlength=task.classes)[:, None]
        # |x - m|^2 = |x|^2 - 2 x m + |m|^2
        yield task.classify(means, -means.square().sum(1) / 2)


def _knn(task: _FewshotData, chosen: Tensor, k: int, temperature: float) -> Iterator[Tensor]:
    for rows in chosen:
        found = find_neighbors(task.queries, task.bank[rows], k)
        labels, classes = task.labels[rows], task.classes + 1
        yield evaluate_knn(found, labels, task.truth, classes, [k], temperature)[k].top1


def _map(values: dict[str, dict[str, Any]], make: Callable[[Any], Any]) -> dict[str, Any]:
    return {n: {method: make(x) for method, x in by.items()} for n, by in values.items()}
