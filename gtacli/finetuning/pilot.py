"""A pilot: short trainings with and without a penalty, compared on images that they do not see.

Both start from the same classifier and take the same few steps on the same views, with a learning
rate that falls to zero as in a whole training, so that their
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

from gtacli.config.finetune import FinetuneConfig
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

STEPS = 40
"""Steps of a pilot, where its images suffice for batches of `SMALLEST_BATCH`."""
SMALLEST_BATCH = 8
MOST_OF_RUN = 0.1
"""Epochs of a pilot, as a fraction of the run's."""
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
    job: FinetuneJob,
    first: FinetuneConfig,
    second: FinetuneConfig,
    run: RunFolder,
    dry_run: bool = False,
) -> Comparison | None:
    """Train with each of two configs for a few steps, and compare.

    Args:
        job: the run, whose validation images judge; without any, a fifth of its training images
            are held out of the pilot.
        first, second: configs that differ from the run's in their penalties alone.
        run: folder of the run; nothing is written there.

    Returns: `first` less `second`; None where no two images can be held out.

    Raises Interrupted: nothing is saved, since the run has not begun.
    """
    split = pilot_split(job)
    if len(split.val) < 2:
        return None
    stores = FinetuneStores(job.target.interpolation, job.config.cache)
    losses = [_losses(job, one, split, stores, run, dry_run) for one in (first, second)]
    return Comparison.of_losses(*losses) if len(losses[0]) > 1 else None


def pilot_split(job: FinetuneJob) -> Split:
    """Return the images that the pilot trains on and those that judge it."""
    train_records, judges = job.split.train, job.split.val
    if not judges:
        train_records, judges = hold_out(train_records, job.split.info["seed"], min_images=2)
    most = STEPS * job.config.batch_size * job.config.accumulate
    return replace(job.split, train=evenly(train_records, most), val=evenly(judges, JUDGES))


def pilot_length(images: int, batch_size: int, epochs: int) -> tuple[int, int]:
    """Return the epochs and the batch size of a pilot.

    It has a tenth of the run's epochs, fewer where `STEPS` steps need fewer, and smaller batches
    where so few epochs would have fewer steps.
    """
    batches = -(-images // batch_size)
    pilot_epochs = min(-(-STEPS // batches), max(1, int(MOST_OF_RUN * epochs)))
    smaller = max(SMALLEST_BATCH, pilot_epochs * images // STEPS)
    return pilot_epochs, min(batch_size, smaller)


def _losses(
    job: FinetuneJob,
    config: FinetuneConfig,
    split: Split,
    stores: FinetuneStores,
    run: RunFolder,
    dry: bool,
) -> Tensor:
    """Return the cross-entropy (N,) of the readable judges after a pilot."""
    whole = config.batch_size * config.accumulate
    epochs, batch_size = pilot_length(len(split.train), whole, job.epochs)
    changes = {"source_views": None, "average": "none", "ema": None, "freeze_epochs": 0}
    if batch_size < config.batch_size:
        changes |= {"batch_size": max(batch_size, 2 * job.processes.size), "accumulate": 1}
    config = config.model_copy(update=changes)
    pilot = replace(prepare(config, stores=stores, processes=job.processes), split=split)
    epochs = 1 if dry else epochs
    start_head(pilot, 1 if dry else None)
    phase = Phase(
        records=split.train,
        epochs=epochs,
        warmup=min(config.warmup, epochs / 2),
        evaluate=lambda epoch: {},
        save_weights=lambda: None,
        stop_after=epochs,
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
