"""A pilot: short trainings with and without a penalty, compared on images that they do not see.

Both start from the same classifier and take the same few steps on the same views, so that their
cross-entropies on a held-out image differ by what the penalty does and little else. The mean of
these differences has a small standard error even on fifty images, on which two accuracies can
seldom be told apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from gtacli.data.base import Record
from gtacli.data.sampling import Split, hold_out
from gtacli.errors import Interrupted
from gtacli.finetuning.frozen_features import evaluation_batches
from gtacli.finetuning.head_start import evenly, start_head
from gtacli.finetuning.prepare import FinetuneJob, FinetuneStores, prepare
from gtacli.runtime.run_folder import RunFolder
from gtacli.training.engine import train
from gtacli.training.job import Phase
from gtacli.training.loop import SilentObserver

FEWEST_STEPS, MOST_STEPS = 16, 60
"""Steps of a pilot, unless these are more than `MOST_OF_RUN` of the run's epochs."""
MOST_OF_RUN = 0.1
JUDGES = 1000
"""Held-out images to compare on, at most."""


@dataclass(frozen=True)
class Comparison:
    """The cross-entropy of one training less that of another, on the same held-out images.

    Attributes:
        difference: mean, in nats.
        error: its standard error.
        images: number of images.
    """

    difference: float
    error: float
    images: int

    @classmethod
    def of_losses(cls, first: Tensor, second: Tensor) -> Comparison:
        """Compare the losses (N,) of two trainings, N > 1."""
        differences = (first - second).double()
        error = differences.std() / math.sqrt(len(differences))
        return cls(float(differences.mean()), float(error), len(differences))


def compare(
    job: FinetuneJob, first: float, second: float, run: RunFolder, dry_run: bool = False
) -> Comparison | None:
    """Train with two strengths of the first regularizer for a few steps, and compare.

    Args:
        job: the run, whose validation images judge; without any, a fifth of its training images
            are held out of the pilot.
        run: folder of the run; nothing is written there.

    Returns: `first` less `second`; None where no two images can be held out.

    Raises Interrupted: nothing is saved, since the run has not begun.
    """
    split = pilot_split(job)
    if len(split.val) < 2:
        return None
    stores = FinetuneStores(job.target.interpolation, job.config.cache)
    losses = [_losses(job, lam, split, stores, run, dry_run) for lam in (first, second)]
    return Comparison.of_losses(*losses) if len(losses[0]) > 1 else None


def pilot_split(job: FinetuneJob) -> Split:
    """Return the images that the pilot trains on and those that judge it."""
    train_records, judges = job.split.train, job.split.val
    if not judges:
        train_records, judges = hold_out(train_records, job.split.info["seed"], min_images=2)
    most = MOST_STEPS * job.config.batch_size * job.config.accumulate
    return replace(job.split, train=evenly(train_records, most), val=evenly(judges, JUDGES))


def pilot_epochs(steps_of_epoch: int, epochs: int) -> int:
    """Return the epochs of a pilot: at least `FEWEST_STEPS`, but at most a tenth of the run's."""
    return min(math.ceil(FEWEST_STEPS / steps_of_epoch), max(1, math.floor(MOST_OF_RUN * epochs)))


def _losses(
    job: FinetuneJob, lam: float, split: Split, stores: FinetuneStores, run: RunFolder, dry: bool
) -> Tensor:
    """Return the cross-entropy (N,) of the readable judges after a pilot with a strength."""
    config = job.config.model_copy(update={"lam": lam, "source_views": None, "average": "none"})
    pilot = replace(prepare(config, stores=stores, processes=job.processes), split=split)
    batches = -(-len(split.train) // config.batch_size)
    start_head(pilot, 1 if dry else None)
    phase = Phase(
        records=split.train,
        epochs=job.epochs,
        warmup=config.warmup,
        evaluate=lambda epoch: {},
        save_weights=lambda: None,
        stop_after=1 if dry else pilot_epochs(-(-batches // config.accumulate), job.epochs),
        max_batches=config.accumulate if dry else None,
    )
    nowhere = RunFolder(run.path, dry=True, processes=run.processes)
    try:
        train(pilot, phase, nowhere, SilentObserver(), None)
    except Interrupted:
        text = "stopped before the first epoch, while `lam` was being decided; start the run again"
        raise Interrupted(text) from None
    return _judge(pilot, split.val, 1 if dry else None)


@torch.no_grad()
def _judge(job: FinetuneJob, judges: tuple[Record, ...], max_batches: int | None) -> Tensor:
    """Return the cross-entropy of each readable image, in the order of the records."""
    device, model = job.compute.device, job.target.model.eval()
    view = job.target.view(device)
    mine: list[tuple[Tensor, Tensor]] = []
    for batch in evaluation_batches(job, judges, max_batches, again=True):
        with job.compute.autocast():
            logits = model(view(batch.images.to(device)))
        losses = F.cross_entropy(logits.float(), batch.labels.to(device), reduction="none")
        mine.append((batch.indices, losses.cpu()))
    parts = [part for theirs in job.processes.gather(mine) for part in theirs]
    if not parts:
        return torch.empty(0)
    indices, losses = (torch.cat(column) for column in zip(*parts, strict=True))
    return losses[indices.argsort()]
