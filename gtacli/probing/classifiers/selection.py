"""The features and images that `gta probe linear` chooses on, and the test of what it chose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gtacli.data.sampling import hold_out
from gtacli.models.feature_columns import FeatureColumn, select_columns
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import has_cls
from gtacli.probing.features.cache import Features
from gtacli.probing.features.evaluation import ProbeData, ProbeResult, accuracy_metrics, to_numpy

DEEP = 4
"""Last blocks whose CLS tokens are one of the choices of features."""
ChosenOn = Literal["val", "held-out", "folds", "test"]
FeatureSet = tuple[FeatureColumn, ...]


@dataclass(frozen=True)
class SelectionData:
    """Images to train on, and images to choose the head on.

    Attributes:
        fit, choose: rows of `train` to train on, and those held out of them; `choose` is empty if
            none are, or if the choice is made on `other`.
        other: a separate split to choose on.
    """

    train: Features
    test: Features
    fit: Tensor
    choose: Tensor
    other: Features | None
    chosen_on: ChosenOn | None

    @property
    def n_chosen_on(self) -> int:
        if self.chosen_on is None:
            return 0
        return len(self.choose) if self.other is None else len(self.other)


def feature_choices(model: LoadedModel) -> tuple[FeatureSet, ...]:
    """Return the sets of columns to choose from, the simplest first.

    The CLS token, the mean of the patches, both, the CLS tokens of the last blocks; without a CLS
    token only the means.
    """
    deep = range(-min(DEEP, len(model.model.blocks)), 0)  # type: ignore[arg-type]
    if not has_cls(model.model):
        return select_columns(model.model, "mean"), select_columns(model.model, "mean", deep)
    single = (select_columns(model.model, features) for features in ("cls", "mean", "cls+mean"))
    return (*single, select_columns(model.model, "cls", deep))


def extract_selection(
    data: ProbeData, model: LoadedModel, sets: Sequence[FeatureSet], on_test: bool
) -> SelectionData:
    """Extract all features; choose on the validation split, else on a fifth held out."""
    splits, columns = data.splits, union(sets)
    more = () if on_test or not splits.val else (splits.val,)
    train, test, *val = data.extract_all(model, (splits.train, splits.test, *more), columns)
    every, none = torch.arange(len(train)), torch.empty(0, dtype=torch.int64)
    if on_test:
        return SelectionData(train, test, every, none, test, "test")
    if val:
        return SelectionData(train, test, every, none, val[0], "val")
    kept = {record.key for record in hold_out(splits.train, data.seed)[0]}
    out = torch.tensor([key not in kept for key in train.keys])
    fit, choose = every[~out], every[out]
    return SelectionData(train, test, fit, choose, None, "held-out" if len(choose) else None)


def union(sets: Iterable[FeatureSet]) -> FeatureSet:
    """Return all columns of some sets, each once."""
    return tuple(dict.fromkeys(column for columns in sets for column in columns))


class OneHead(Protocol):
    """A linear classifier, or several of which the first is meant."""

    classes: int

    def logits(self, features: Features, rows: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]: ...


def evaluate_head(
    images: SelectionData, columns: FeatureSet, head: OneHead, more: dict[str, Any]
) -> ProbeResult:
    """Return the result of the chosen head, with `more` metrics."""
    top1, top5 = _test(head, images.test)
    metrics: dict[str, Any] = {
        "protocol": "sweep",
        **accuracy_metrics("top1", top1),
        **accuracy_metrics("top5", top5),
        **more,
    }
    per_image = {"top1": top1, "top5": top5}
    n_train, n_test = len(images.train), len(images.test)
    return ProbeResult(metrics, n_train, n_test, images.test.keys, per_image, columns)


def _test(head: OneHead, test: Features) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (correct, in the top five) for each test image."""
    top1, top5 = [], []
    for chosen, logits in head.logits(test, torch.arange(len(test))):
        best = logits[0].cpu().topk(min(5, head.classes)).indices
        hits = best == test.labels[chosen, None]
        top1.append(hits[:, 0])
        top5.append(hits.any(1))
    return to_numpy(torch.cat(top1)), to_numpy(torch.cat(top5))
