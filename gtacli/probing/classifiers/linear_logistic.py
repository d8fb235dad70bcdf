"""`gta probe linear --protocol sweep` from few images: a logistic regression.

Features and penalty are chosen by cross-validation on the training images, and the chosen head is
fitted again to all of them; see `logistic_heads`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from gtacli.data.sampling import hold_out, split_folds
from gtacli.probing.classifiers.logistic_heads import (
    FOLDS,
    LogisticHead,
    LogisticTrainer,
    choose_logistic,
)
from gtacli.probing.classifiers.selection import ChosenOn, FeatureSet, SelectionData, evaluate_head
from gtacli.probing.features.cache import Features, ProgressBar
from gtacli.probing.features.evaluation import ProbeData, ProbeResult

log = logging.getLogger(__name__)


def linear_logistic(
    data: ProbeData,
    sets: Sequence[FeatureSet],
    images: SelectionData,
    penalties: Sequence[float],
    folds: int | None,
    progress: ProgressBar | None = None,
) -> ProbeResult:
    """Compute the test accuracy of the chosen head; for the metrics see `results.LinearResult`.

    Args:
        sets: the features to choose from, the simplest first.
        penalties: values of c to choose from, the preferred one first.
        folds: of the cross-validation; 1: hold a fifth out; None: 5, but choose on a validation
            split if there is one.
    """
    trainer = LogisticTrainer(images.train, len(data.splits.classes), data.cache.compute.device)
    heads = [LogisticHead(columns, c) for columns in sets for c in dict.fromkeys(penalties)]
    fold_of = None
    chosen_on: ChosenOn | None = images.chosen_on
    if images.other is None or folds is not None:
        fold_of = _assign_folds(data, images.train, folds or FOLDS)
        chosen_on = "held-out" if folds == 1 else "folds"
    number, scores = 0, None
    if len(heads) == 1:
        chosen_on = None
    elif fold_of is not None and not (fold_of >= 0).any():
        chosen_on = None
        log.warning("every class has too few training images to hold one out: nothing is chosen")
    else:
        number, scores = choose_logistic(heads, images.other, fold_of, trainer, progress)
    best = heads[number]
    more = {
        "solver": "logistic",
        "chosen_on": chosen_on,
        "chosen_top1": None if scores is None else scores.accuracy(number),
        "chosen_top1_se": None if scores is None else scores.standard_error(number),
        "n_chosen_on": 0 if scores is None else scores.correct.shape[1],
        "folds": int(fold_of.max()) + 1 if fold_of is not None and chosen_on == "folds" else None,
        "heads": len(heads),
        "c": best.c,
        "lr": None,
        "head_batch": None,
    }
    return evaluate_head(images, best.columns, trainer.fit(best), more)


def _assign_folds(data: ProbeData, train: Features, folds: int) -> Tensor:
    """Return the fold of each training image; -1: never held out."""
    if folds == 1:
        kept = {record.key for record in hold_out(data.splits.train, data.seed)[0]}
        return torch.tensor([-1 if key in kept else 0 for key in train.keys])
    readable = set(train.keys)
    records = [record for record in data.splits.train if record.key in readable]
    found = split_folds(records, folds, data.seed)
    return torch.tensor([found.get(key, -1) for key in train.keys])
