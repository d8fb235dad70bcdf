"""`gta probe linear --protocol sweep`: a linear classifier on frozen features, chosen held out.

With few training images it is a logistic regression (`linear_logistic`). Otherwise it is as
dinov2's linear evaluation (Oquab et al., arXiv 2304.07193): 13 learning rates for each of four
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
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gtacli.models.loading import LoadedModel
from gtacli.probing.classifiers.heads import (
    Head,
    HeadScore,
    LinearHeads,
    compute_scales,
    count_steps,
)
from gtacli.probing.classifiers.linear_logistic import linear_logistic
from gtacli.probing.classifiers.logistic_heads import PENALTIES
from gtacli.probing.classifiers.selection import (
    FeatureSet,
    SelectionData,
    evaluate_head,
    extract_selection,
    feature_choices,
    union,
)
from gtacli.probing.features.cache import Features, ProgressBar
from gtacli.probing.features.evaluation import ProbeData, ProbeResult

log = logging.getLogger(__name__)
RATES_BY_STEPS = tuple(10 ** (e / 3) for e in range(5, 18))
"""Learning rate x steps of the heads."""
RUNGS = ((1 / 32, 6), (1 / 4, 1))
"""(fraction of the steps, heads that continue)."""
FEWEST_STEPS = 100
"""Fewest steps of a rung, unless there are fewer in all."""
FEW, FEWER_PER_CLASS, MOST = 1000, 10, 3000
"""Training images are few: up to `FEW`, or below `FEWER_PER_CLASS` a class and up to `MOST`."""
Solver = Literal["auto", "logistic", "sgd"]


@dataclass(frozen=True)
class Sweep:
    """Options for training and choosing heads.

    Attributes:
        rates: learning rates at full length; None: 13 with rate x steps as `RATES_BY_STEPS`.
        epochs, batch: None: by the number of images.
        race: drop heads on the way.
        on_test: choose on the test images, as dinov2 does.
        solver: sgd: as dinov2; auto: logistic regression if images are few and none of the options
            above is given.
        penalties: logistic: values of c to choose from, the preferred one first.
        folds: logistic: of the cross-validation; 1: hold a fifth out; None: 5, or the validation
            split.
    """

    rates: tuple[float, ...] | None = None
    epochs: float | None = None
    batch: int | None = None
    race: bool = True
    on_test: bool = False
    solver: Solver = "auto"
    penalties: tuple[float, ...] = PENALTIES
    folds: int | None = None

    def is_logistic(self, images: int, classes: int) -> bool:
        """Return whether to fit logistic regressions, for a number of training images."""
        if self.solver != "auto":
            return self.solver == "logistic"
        if self.rates or self.epochs or self.batch or not self.race or self.on_test:
            return False
        return images <= FEW or (images < FEWER_PER_CLASS * classes and images <= MOST)

    def batch_of(self, images: int) -> int:
        """Return the batch size: by default a hundredth of the images, 64 to 1024."""
        return self.batch or min(1024, max(64, 1 << max(0, images // 100).bit_length()))

    def steps(self, images: int) -> int:
        """Return the number of steps.

        By default 100 epochs; fewer above 128,000 images, down to 10 for ImageNet as in dinov2.
        """
        epochs = self.epochs or min(100.0, max(10.0, 12.8e6 / images))
        return count_steps(images, epochs, self.batch_of(images))


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
    images = extract_selection(data, model, sets, sweep.on_test)
    classes = len(data.splits.classes)
    if sweep.is_logistic(len(images.train), classes):
        options = (sweep.penalties, sweep.folds)
        return linear_logistic(data, sets, images, *options, progress)
    return _linear_sgd(data, sets, images, sweep, progress)


def _linear_sgd(
    data: ProbeData,
    sets: Sequence[FeatureSet],
    images: SelectionData,
    sweep: Sweep,
    progress: ProgressBar | None,
) -> ProbeResult:
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
    more = {
        "solver": "sgd",
        "chosen_on": images.chosen_on,
        "chosen_top1": None if score is None else score.accuracy,
        "n_chosen_on": images.n_chosen_on,
        "heads": len(candidates),
        "lr": rate,
        "steps": final,
        "head_batch": sweep.batch_of(len(images.train)),
    }
    return evaluate_head(images, best.columns, heads, more)


class _Candidate(NamedTuple):
    columns: FeatureSet
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
        columns = union(candidate.columns for candidate in candidates)
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
        heads = trainer.train(left, images.fit, steps)
        if images.other is not None:
            scores = heads.scores(images.other, torch.arange(len(images.other)))
        else:
            scores = heads.scores(images.train, images.choose)
        ranked = sorted(zip(scores, left, strict=True), key=lambda one: one[0], reverse=True)
        left, best = [candidate for _, candidate in ranked[:keep]], ranked[0][0]
    return left[0], best
