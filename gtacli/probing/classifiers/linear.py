"""`gta probe linear --protocol sweep`: a linear classifier on frozen features, chosen held out.

As dinov2's linear evaluation (Oquab et al., arXiv 2304.07193): 13 learning rates for each of four
choices of features, all trained at once without augmentation. Three deviations:

- learning rate and features are chosen on held-out training images, and the chosen head is trained
  again on all of them; dinov2 chooses among its heads on the test images (`on_test`);
- features are standardized (see `heads`);
- successive halving: all heads are trained for 1/32 of the steps, the best six for a quarter, the
  best one for all. A head depends on rate x steps, so a shorter run has a higher rate. With
  `race=False` all are trained to the end, as in dinov2.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gtacli.data.sampling import hold_out
from gtacli.models.loading import LoadedModel
from gtacli.probing.classifiers.heads import (
    Head,
    HeadScore,
    LinearHeads,
    compute_scales,
    count_steps,
)
from gtacli.probing.features.cache import Features, ProgressBar
from gtacli.probing.features.columns import FeatureColumn, has_cls_token, select_columns
from gtacli.probing.features.evaluation import ProbeData, ProbeResult, accuracy_metrics, to_numpy

log = logging.getLogger(__name__)
RATES_BY_STEPS = tuple(10 ** (e / 3) for e in range(5, 18))
"""Learning rate x steps of the heads."""
RUNGS = ((1 / 32, 6), (1 / 4, 1))
"""(fraction of the steps, heads that continue)."""
FEWEST_STEPS = 100
"""Fewest steps of a rung, unless there are fewer in all."""
DEEP = 4
"""Last blocks whose CLS tokens are one of the choices of features."""
ChosenOn = Literal["val", "held-out", "test"]


@dataclass(frozen=True)
class Sweep:
    """Options for training and choosing heads.

    Attributes:
        rates: learning rates at full length; None: 13 with rate x steps as `RATES_BY_STEPS`.
        epochs, batch: None: by the number of images.
        race: drop heads on the way.
        on_test: choose on the test images, as dinov2 does.
    """

    rates: tuple[float, ...] | None = None
    epochs: float | None = None
    batch: int | None = None
    race: bool = True
    on_test: bool = False

    def batch_of(self, images: int) -> int:
        """Return the batch size: by default a hundredth of the images, 64 to 1024."""
        return self.batch or min(1024, max(64, 1 << max(0, images // 100).bit_length()))

    def steps(self, images: int) -> int:
        """Return the number of steps.

        By default 100 epochs; fewer above 128,000 images, down to 10 for ImageNet as in dinov2.
        """
        epochs = self.epochs or min(100.0, max(10.0, 12.8e6 / images))
        return count_steps(images, epochs, self.batch_of(images))


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

    def scores(self, heads: LinearHeads) -> list[HeadScore]:
        if self.other is not None:
            return heads.scores(self.other, torch.arange(len(self.other)))
        return heads.scores(self.train, self.choose)


def feature_choices(model: LoadedModel) -> tuple[tuple[FeatureColumn, ...], ...]:
    """Return the sets of columns to choose from.

    The CLS token, the mean of the patches, both, the CLS tokens of the last blocks; without a CLS
    token only the means.
    """
    deep = range(-min(DEEP, len(model.model.blocks)), 0)  # type: ignore[arg-type]
    if not has_cls_token(model.model):
        return select_columns(model.model, "mean"), select_columns(model.model, "mean", deep)
    single = (select_columns(model.model, features) for features in ("cls", "mean", "cls+mean"))
    return (*single, select_columns(model.model, "cls", deep))


def linear(
    data: ProbeData,
    model: LoadedModel,
    sweep: Sweep,
    progress: ProgressBar | None = None,
) -> ProbeResult:
    """Compute the test accuracy of the chosen head; for the metrics see `results.LinearResult`.

    `data.features` "all" stands for `feature_choices`.
    """
    sets = feature_choices(model) if data.features == "all" else (data.columns(model),)
    images = _extract(data, model, sets, sweep.on_test)
    # The same batch size with and without held-out images: a rate is chosen for a number of steps.
    sweep = replace(sweep, batch=sweep.batch_of(len(images.train)))
    trainer = _Trainer(images.train, len(data.splits.classes), data, sweep, progress)
    steps = sweep.steps(len(images.fit))
    times = [rate * steps for rate in sweep.rates] if sweep.rates else [*RATES_BY_STEPS]
    candidates = [_Candidate(columns, time) for columns in sets for time in times]
    score: HeadScore | None = None
    if len(candidates) == 1:
        best, images = candidates[0], replace(images, chosen_on=None)
    elif images.chosen_on is None:
        log.warning("no class has 3 training images, so none is held out: using the middle rate")
        best = candidates[len(times) // 2]
    else:
        best, score = _choose(candidates, images, sweep, trainer)
    rate = best.rate_steps / steps  # the same rate and epochs on all images
    every, final = torch.arange(len(images.train)), sweep.steps(len(images.train))
    heads = trainer.train([_Candidate(best.columns, rate * final)], every, final)
    top1, top5 = _test(heads, images.test)
    metrics: dict[str, Any] = {
        "protocol": "sweep",
        **accuracy_metrics("top1", top1),
        **accuracy_metrics("top5", top5),
        "chosen_on": images.chosen_on,
        "chosen_top1": None if score is None else score.accuracy,
        "n_chosen_on": images.n_chosen_on,
        "heads": len(candidates),
        "lr": rate,
        "steps": final,
        "head_batch": sweep.batch_of(len(images.train)),
    }
    per_image = {"top1": top1, "top5": top5}
    n_train, n_test = len(images.train), len(images.test)
    return ProbeResult(metrics, n_train, n_test, images.test.keys, per_image, best.columns)


def _extract(
    data: ProbeData, model: LoadedModel, sets: Sequence[tuple[FeatureColumn, ...]], on_test: bool
) -> SelectionData:
    splits, columns = data.splits, _union(sets)
    train, test = (data.extract(model, records, columns) for records in (splits.train, splits.test))
    every, none = torch.arange(len(train)), torch.empty(0, dtype=torch.int64)
    if on_test:
        return SelectionData(train, test, every, none, test, "test")
    if splits.val:
        val = data.extract(model, splits.val, columns)
        return SelectionData(train, test, every, none, val, "val")
    held = {record.key for record in hold_out(splits.train, data.seed)[1]}
    out = torch.tensor([key in held for key in train.keys])
    fit, choose = every[~out], every[out]
    return SelectionData(train, test, fit, choose, None, "held-out" if len(choose) else None)


def _union(sets: Iterable[tuple[FeatureColumn, ...]]) -> tuple[FeatureColumn, ...]:
    return tuple(dict.fromkeys(column for columns in sets for column in columns))


class _Candidate(NamedTuple):
    columns: tuple[FeatureColumn, ...]
    rate_steps: float  # learning rate x steps


class _Trainer:
    """Trains heads on rows of some features."""

    def __init__(
        self,
        features: Features,
        classes: int,
        data: ProbeData,
        sweep: Sweep,
        progress: ProgressBar | None,
    ) -> None:
        self.features, self.classes, self.sweep = features, classes, sweep
        self.device, self.seed = data.cache.compute.device, data.seed
        self.progress: ProgressBar = progress or (lambda steps: nullcontext(lambda done: None))

    def train(self, candidates: Sequence[_Candidate], rows: Tensor, steps: int) -> LinearHeads:
        columns = _union(candidate.columns for candidate in candidates)
        scale = compute_scales(self.features, rows, columns, self.device)
        candidate_heads = [Head(c.columns, c.rate_steps / steps) for c in candidates]
        heads = LinearHeads(candidate_heads, self.classes, scale)
        batch = self.sweep.batch_of(len(rows))
        with self.progress(steps) as advance:
            heads.train(self.features, rows, steps, batch, self.seed, advance)
        return heads


def _choose(
    candidates: Sequence[_Candidate], images: SelectionData, sweep: Sweep, trainer: _Trainer
) -> tuple[_Candidate, HeadScore]:
    """Return the best candidate, and its score on the images it was chosen on."""
    all_steps = sweep.steps(len(images.fit))
    left, best = list(candidates), HeadScore(0.0, 0.0)
    for fraction, keep in RUNGS if sweep.race else ((1.0, 1),):
        steps = min(all_steps, max(FEWEST_STEPS, round(fraction * all_steps)))
        scores = images.scores(trainer.train(left, images.fit, steps))
        ranked = sorted(zip(scores, left, strict=True), key=lambda one: one[0], reverse=True)
        left, best = [candidate for _, candidate in ranked[:keep]], ranked[0][0]
    return left[0], best


def _test(heads: LinearHeads, test: Features) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (correct, in the top five) for each test image by the first head."""
    top1, top5 = [], []
    for chosen, logits in heads.logits(test, torch.arange(len(test))):
        best = logits[0].cpu().topk(min(5, heads.classes)).indices
        hits = best == test.labels[chosen, None]
        top1.append(hits[:, 0])
        top5.append(hits.any(1))
    return to_numpy(torch.cat(top1)), to_numpy(torch.cat(top5))
