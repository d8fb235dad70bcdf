"""Frozen features of unaugmented images, before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor

from gtacli.data.augment.transforms import EvalTransform
from gtacli.data.base import Record
from gtacli.data.loader import Batch, make_loader
from gtacli.data.store import ImageStore
from gtacli.errors import GtaError
from gtacli.finetuning.job import FinetuneJob
from gtacli.finetuning.linear_head import FrozenFeatures
from gtacli.models.loading import LoadedModel
from gtacli.runtime.devices import choose_workers
from gtacli.training.loop import stand_in


@torch.no_grad()
def extract_features(
    job: FinetuneJob,
    records: tuple[Record, ...],
    max_batches: int | None = None,
    again: bool = False,
    read: Callable[[Tensor], Tensor] | None = None,
    target: LoadedModel | None = None,
) -> FrozenFeatures:
    """Return features of `records` in the evaluation view, by default the classifier's input.

    The processes of the job share the images; all of them get all features.

    Args:
        max_batches, again, target: see `evaluation_batches`.
        read: uint8 images (B, 3, H, W) -> features (B, ...) fp32.

    Raises GtaError if no image can be read.
    """
    job.target.model.eval()
    mine: list[tuple[Tensor, Tensor, Tensor]] = []
    read = read or partial(classifier_input, job)
    for batch in evaluation_batches(job, records, max_batches, again, target):
        values = read(batch.images).cpu()
        if not batch.stand_in:
            mine.append((batch.indices, values, batch.labels))
    parts = [part for theirs in job.processes.gather(mine) for part in theirs]
    if not parts:
        raise GtaError(f"none of {len(records)} images can be read", option="data")
    indices, values, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    order = indices.argsort()
    return FrozenFeatures(values[order], labels[order], indices[order])


def training_features(
    job: FinetuneJob, records: tuple[Record, ...], max_batches: int | None = None
) -> FrozenFeatures:
    """Return `extract_features` of training images, once for all jobs of a run.

    Only before the first step, when all jobs have the same weights.
    """
    cached = job.stores.features
    if records not in cached:
        cached[records] = extract_features(job, records, max_batches)
    return cached[records]


def classifier_input(job: FinetuneJob, images: Tensor) -> Tensor:
    """Return the input (B, C) fp32 of the target's classifier for uint8 images (B, 3, H, W)."""
    model, device = cast(Any, job.target.model), job.compute.device
    with job.compute.frozen.autocast():
        tokens = model.forward_features(job.target.view(device)(images.to(device)))
        features: Tensor = model.forward_head(tokens, pre_logits=True)
    return features.float()


def evaluation_batches(
    job: FinetuneJob,
    records: tuple[Record, ...],
    max_batches: int | None = None,
    again: bool = False,
    target: LoadedModel | None = None,
) -> Iterator[Batch]:
    """Yield this process's images in the evaluation view, the same number of batches in each.

    Processes that share a network run it together; an empty batch has a blank image (`stand_in`).

    Args:
        max_batches: stop after so many batches.
        again: whether the images will be read again in this view, so that they should be cached.
        target: the model whose view it is; default: that of the job.
    """
    if not records:
        return
    target, config = target or job.target, job.config
    transform = EvalTransform(target.image_size, target.crop_pct, target.interpolation)
    if again:
        store = job.stores.get(records, transform.load_size)
    else:
        store = ImageStore(
            records, transform.load_size, interpolation=target.interpolation, cache="none"
        )
    batches = make_loader(
        store,
        transform,
        2 * config.batch_size,  # without gradients it needs no more memory than training
        train=False,
        workers=choose_workers(config.workers, job.compute.device, store.cached),
        shard=(job.processes.rank, job.processes.size),
    )
    for batch in islice(batches, max_batches):
        yield batch if len(batch.images) else stand_in(batch)
