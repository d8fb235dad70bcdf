"""`gta probe linear --multi-label`: a logistic regression for each label on frozen features.

As `linear_logistic`, with two differences. Features and penalty are chosen by the mean average
precision on the validation split, else on a fifth that is held out, among equals the simplest ones:
this metric is no mean over images, so that a difference has no paired error. And each label is a
problem of its own, with the same penalty.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gtacli.data.labels import multi_hot
from gtacli.measures.multilabel import map_interval, ranking_precision, score_labels
from gtacli.measures.statistics import mean_interval
from gtacli.models.loading import LoadedModel
from gtacli.probing.classifiers.logistic_heads import (
    PENALTIES,
    FittedHead,
    LogisticHead,
    LogisticTrainer,
)
from gtacli.probing.classifiers.selection import extract_selection, feature_choices
from gtacli.probing.features.cache import Features
from gtacli.probing.features.evaluation import ProbeData, ProbeResult

log = logging.getLogger(__name__)


def linear_labels(
    data: ProbeData, model: LoadedModel, penalties: Sequence[float] = PENALTIES
) -> ProbeResult:
    """Compute the test metrics of the chosen heads; for these see `results.LabelsResult`.

    Args:
        penalties: values of c to choose from, the preferred one first.
    """
    sets = feature_choices(model) if data.features == "all" else (data.columns(model),)
    images = extract_selection(data, model, sets, on_test=False)
    classes = len(data.splits.classes)
    trainer = LogisticTrainer(images.train, classes, data.cache.compute.device)
    heads = [LogisticHead(columns, c) for columns in sets for c in dict.fromkeys(penalties)]
    best, score = heads[0], None
    if len(heads) > 1 and images.chosen_on is None:
        log.warning("no label has 3 training images, so none is held out: nothing is chosen")
    elif len(heads) > 1:
        scores = []
        for head in heads:
            fitted = trainer.fit(head, images.fit)
            logits, truth = (
                _outputs(fitted, images.train, images.choose, classes)
                if images.other is None
                else _outputs(fitted, images.other, None, classes)
            )
            scores.append(score_labels(logits, truth).map or 0.0)
        score = max(scores)
        best = heads[scores.index(score)]
    else:
        images = replace(images, chosen_on=None)
    logits, truth = _outputs(trainer.fit(best), images.test, None, classes)
    found, ranking = score_labels(logits, truth), ranking_precision(logits, truth).numpy()
    some = (truth.sum(1) > 0).tolist()
    metrics = {
        "protocol": "labels",
        "map": found.map,
        "map_interval": map_interval(logits, truth, data.seed),
        "ranking": float(ranking.mean()) if len(ranking) else None,
        "ranking_interval": list(mean_interval(ranking)) if len(ranking) > 1 else None,
        "f1_macro": found.f1_macro,
        "f1_micro": found.f1_micro,
        "chosen_on": images.chosen_on,
        "chosen_map": score,
        "n_chosen_on": images.n_chosen_on,
        "heads": len(heads),
        "c": best.c,
    }
    keys = [key for key, labeled in zip(images.test.keys, some, strict=True) if labeled]
    n_train, n_test = len(images.train), len(images.test)
    return ProbeResult(metrics, n_train, n_test, keys, {"ranking": ranking}, best.columns)


def _outputs(
    head: FittedHead, features: Features, rows: Tensor | None, classes: int
) -> tuple[Tensor, Tensor]:
    """Return the logits of some images, and their labels as zeros and ones."""
    rows = torch.arange(len(features)) if rows is None else rows
    logits = torch.cat([one[0].cpu() for _, one in head.logits(features, rows)])
    return logits, multi_hot(features.labels[rows], classes)
