"""`gta probe linear --protocol sweep`: a linear classifier on frozen features; its learning rate,
and which features, are chosen on images that are held out of training.

As dinov2's linear evaluation (Oquab et al., arXiv 2304.07193): 13 learning rates for each of four
choices of features, all trained at once on views without augmentation. Three things are done
otherwise. The choice is made on held-out training images and the chosen head learns again from all
of them, where dinov2 chooses among its heads on the test images (`on_test`). Features are
standardised (`heads`). And heads race: all learn for 1/32 of the steps, the best six for a
quarter, the best one for all of them. What a head learns depends on rate x steps, so a shorter run
has the higher rate; `race=False` trains all to the end, as dinov2 does.
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
from gtacli.probing.classifiers.heads import Head, Heads, Score, standardised, steps_of
from gtacli.probing.features.cache import Features, Progress
from gtacli.probing.features.columns import Column, columns_of
from gtacli.probing.features.evaluation import Bench, Outcome, accuracy, numpy

log = logging.getLogger(__name__)
TIMES = tuple(10 ** (e / 3) for e in range(5, 18))
"""Rate x steps of the heads."""
RUNGS = ((1 / 32, 6), (1 / 4, 1))
"""(share of the steps, heads that go on)."""
FEW_STEPS = 100
"""Steps of a rung at least, as far as there are so many."""
DEEP = 4
"""Blocks whose CLS tokens are one of the choices."""
ChosenOn = Literal["val", "held-out", "test"]


@dataclass(frozen=True)
class Sweep:
    """How heads are trained and chosen.

    Attributes:
        rates: learning rates at full length; None: 13 whose rate x steps are `TIMES`.
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
        """A hundredth of the images, 64 to 1024."""
        return self.batch or min(1024, max(64, 1 << max(0, images // 100).bit_length()))

    def steps(self, images: int) -> int:
        """100 epochs; of more than 128,000 images fewer, down to 10 of ImageNet, as dinov2's."""
        epochs = self.epochs or min(100.0, max(10.0, 12.8e6 / images))
        return steps_of(images, epochs, self.batch_of(images))


@dataclass(frozen=True)
class Data:
    """Attributes:
    fit, choose: places in `train` that are learnt from, and those held out of them; `choose` is
        empty where nothing is, or where the choice is made in `other`.
    other: a part of its own to choose on.
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

    def scores(self, heads: Heads) -> list[Score]:
        if self.other is not None:
            return heads.scores(self.other, torch.arange(len(self.other)))
        return heads.scores(self.train, self.choose)


def choices(model: LoadedModel) -> tuple[tuple[Column, ...], ...]:
    """CLS token, mean of the patches, both, the CLS tokens of the last blocks; of a network without
    a CLS token the means alone."""
    deep = range(-min(DEEP, len(model.model.blocks)), 0)  # type: ignore[arg-type]
    if getattr(model.model, "cls_token", None) is None:
        return columns_of(model.model, "mean"), columns_of(model.model, "mean", deep)
    single = (columns_of(model.model, features) for features in ("cls", "mean", "cls+mean"))
    return (*single, columns_of(model.model, "cls", deep))


def linear(
    bench: Bench,
    model: LoadedModel,
    sweep: Sweep,
    progress: Progress | None = None,
) -> Outcome:
    """The share of test images that the chosen head gets right.

    `bench.features` "all" stands for `choices`.
    """
    sets = choices(model) if bench.features == "all" else (bench.columns(model),)
    data = _data(bench, model, sets, sweep.on_test)
    # With images held out or not: a rate is chosen for so many steps an epoch.
    sweep = replace(sweep, batch=sweep.batch_of(len(data.train)))
    trainer = _Trainer(data.train, len(bench.parts.classes), bench, sweep, progress)
    steps = sweep.steps(len(data.fit))
    times = [rate * steps for rate in sweep.rates] if sweep.rates else [*TIMES]
    candidates = [_Candidate(seen, time) for seen in sets for time in times]
    score: Score | None = None
    if len(candidates) == 1:
        best, data = candidates[0], replace(data, chosen_on=None)
    elif data.chosen_on is None:
        log.warning("no class has 3 training images to hold one out of: the middle rate is taken")
        best = candidates[len(times) // 2]
    else:
        best, score = _chosen(candidates, data, sweep, trainer)
    rate = best.time / steps  # the same on all images, and the same epochs
    every, final = torch.arange(len(data.train)), sweep.steps(len(data.train))
    right, ranked = _tested(
        trainer.train([_Candidate(best.columns, rate * final)], every, final), data.test
    )
    figures: dict[str, Any] = {
        "protocol": "sweep",
        **accuracy("top1", right),
        **accuracy("top5", ranked),
        "chosen_on": data.chosen_on,
        "chosen_top1": None if score is None else score.accuracy,
        "n_chosen_on": data.n_chosen_on,
        "heads": len(candidates),
        "lr": rate,
        "steps": final,
        "head_batch": sweep.batch_of(len(data.train)),
    }
    each = {"top1": right, "top5": ranked}
    return Outcome(figures, len(data.train), len(data.test), data.test.keys, each, best.columns)


def _data(
    bench: Bench, model: LoadedModel, sets: Sequence[tuple[Column, ...]], on_test: bool
) -> Data:
    parts, columns = bench.parts, _union(sets)
    train, test = (bench.see(model, records, columns) for records in (parts.train, parts.test))
    every, none = torch.arange(len(train)), torch.empty(0, dtype=torch.int64)
    if on_test:
        return Data(train, test, every, none, test, "test")
    if parts.val:
        return Data(train, test, every, none, bench.see(model, parts.val, columns), "val")
    held = {record.key for record in hold_out(parts.train, bench.seed)[1]}
    out = torch.tensor([key in held for key in train.keys])
    fit, choose = every[~out], every[out]
    return Data(train, test, fit, choose, None, "held-out" if len(choose) else None)


def _union(sets: Iterable[tuple[Column, ...]]) -> tuple[Column, ...]:
    return tuple(dict.fromkeys(column for seen in sets for column in seen))


class _Candidate(NamedTuple):
    columns: tuple[Column, ...]
    time: float  # rate x steps


class _Trainer:
    """Trains heads on images of one part."""

    def __init__(
        self,
        features: Features,
        classes: int,
        bench: Bench,
        sweep: Sweep,
        progress: Progress | None,
    ) -> None:
        self.features, self.classes, self.sweep = features, classes, sweep
        self.device, self.seed = bench.cache.compute.device, bench.seed
        self.progress: Progress = progress or (lambda steps: nullcontext(lambda done: None))

    def train(self, candidates: Sequence[_Candidate], rows: Tensor, steps: int) -> Heads:
        columns = _union(candidate.columns for candidate in candidates)
        scale = standardised(self.features, rows, columns, self.device)
        heads = Heads([Head(c.columns, c.time / steps) for c in candidates], self.classes, scale)
        batch = self.sweep.batch_of(len(rows))
        with self.progress(steps) as advance:
            heads.train(self.features, rows, steps, batch, self.seed, advance)
        return heads


def _chosen(
    candidates: Sequence[_Candidate], data: Data, sweep: Sweep, trainer: _Trainer
) -> tuple[_Candidate, Score]:
    """The winner of the race, and its score when it was chosen."""
    whole = sweep.steps(len(data.fit))
    left, best = list(candidates), Score(0.0, 0.0)
    for share, keep in RUNGS if sweep.race else ((1.0, 1),):
        steps = min(whole, max(FEW_STEPS, round(share * whole)))
        scores = data.scores(trainer.train(left, data.fit, steps))
        ranked = sorted(zip(scores, left, strict=True), key=lambda one: one[0], reverse=True)
        left, best = [candidate for _, candidate in ranked[:keep]], ranked[0][0]
    return left[0], best


def _tested(heads: Heads, test: Features) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(right, among the first five) of each test image by the first head."""
    right, ranked = [], []
    for chosen, logits in heads.logits(test, torch.arange(len(test))):
        best = logits[0].cpu().topk(min(5, heads.classes)).indices
        hits = best == test.labels[chosen, None]
        right.append(hits[:, 0])
        ranked.append(hits.any(1))
    return numpy(torch.cat(right)), numpy(torch.cat(ranked))
