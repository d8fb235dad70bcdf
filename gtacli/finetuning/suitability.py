"""An estimate, before training, of whether the source's attention suits the labels.

The CLS token knows of an image what the attention of all blocks has let it collect. Two classifiers
are compared on images that they were not fitted to: one of the CLS token's last features, and one
of what every block knows, its CLS token and the mean of its patches, from which nothing has been
selected. Where the first is better, the source's attention selects what these labels need, and
what fine-tuning changes in it is mostly noise. Where the second is better, it misses what lower
blocks have seen, and has to change.

Of images with any number of labels not the accuracy is compared but the average precision of each
image's ranking of the classes: for one label it is the inverse of its rank. It has a value for
every image, so that the difference has an error, as that of the accuracies has; the mean average
precision over classes has none.

Both are ridge classifiers (`measures.ridge`), left-one-out in closed form, so that the estimate
costs a forward pass. Ours; probes of all blocks are those of Head2Toe (arXiv 2201.03529).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from gtacli.data.base import Record
from gtacli.data.sampling import evenly
from gtacli.finetuning.frozen_features import extract_features
from gtacli.finetuning.job import FinetuneJob
from gtacli.finetuning.source import is_own_start
from gtacli.measures.multilabel import ranking_precision
from gtacli.measures.ridge import kernel_of, leave_one_out
from gtacli.models.feature_columns import FeatureColumn, PooledFeatures
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import has_cls

IMAGES = 600
"""Images that the estimate uses, unless there are more than 300 classes."""
IMAGES_OF_CLASS = 2


@dataclass(frozen=True)
class Suitability:
    """The two accuracies, or ranking precisions, as fractions of the same images.

    Attributes:
        cls: of the CLS token's last features.
        blocks: of the features of all blocks.
        error: standard error of their difference.
        ranking: whether they are precisions of rankings.
    """

    cls: float
    blocks: float
    error: float
    ranking: bool = False

    @property
    def verdict(self) -> int:
        """The verdict: 1 where the attention suits, -1 where it does not, 0 where it is open.

        It is open where the accuracies differ by at most one standard error.
        """
        gain = self.cls - self.blocks
        return (gain > self.error) - (gain < -self.error)


def find_suitability(
    job: FinetuneJob, max_batches: int | None = None, of_source: bool = False
) -> Suitability | None:
    """Estimate how a network's attention suits a job's training images, once for all of a run.

    Only before the first step. None for a network without a CLS token.

    Args:
        max_batches: use no more than their images.
        of_source: of the source, where it is another network than the one that is trained.

    Raises GtaError if no image can be read.
    """
    network = job.target
    if of_source and job.source is not None and not is_own_start(job.config):
        network = job.source
    if not has_cls(network.model):
        return None
    found, key = job.stores.suitability, network is job.target
    if key not in found:
        most = max(IMAGES, IMAGES_OF_CLASS * len(job.dataset.classes))
        if max_batches is not None:
            most = max_batches * job.config.batch_size
        # An image that is repeated would classify itself.
        # Nor are held-out ones used, which a resumed refit would measure anew.
        images = tuple(r for r in job.split.train if r.first is None and r.every_label)
        found[key] = measure_suitability(job, network, evenly(images, most))
    return found[key]


def measure_suitability(
    job: FinetuneJob, network: LoadedModel, records: tuple[Record, ...]
) -> Suitability:
    """Estimate how a network's attention suits some of a job's training images.

    The processes of the job share the images; all of them get the estimate.

    Raises GtaError if no image can be read.
    """
    last = len(cast(Any, network.model).blocks) - 1
    columns = tuple(FeatureColumn(n, pool) for n in range(last + 1) for pool in ("cls", "mean"))
    features = extract_features(job, records, read=_block_reader(job, network, columns))
    kernels = {c: kernel_of(features.values[:, i]) for i, c in enumerate(columns)}

    classes, several = len(job.dataset.classes), job.dataset.multi_label
    targets = features.multi_hot(classes) if several else F.one_hot(features.labels, classes)

    def hits(kernel: Tensor) -> Tensor:
        scores = leave_one_out(kernel, targets)
        if several:
            return ranking_precision(scores, targets)
        return scores.argmax(1) == features.labels

    every = torch.stack([*kernels.values()]).sum(0)
    found = compare(hits(kernels[FeatureColumn(last, "cls")]), hits(every))
    return replace(found, ranking=several)


def compare(cls: Tensor, blocks: Tensor) -> Suitability:
    """Return the estimate from which images (N,) each of the classifiers has right, or how much."""
    ours, theirs = cls.double(), blocks.double()
    # That of the paired difference: what both have right, or wrong, does not make it uncertain.
    error = float((ours - theirs).std(correction=0)) / math.sqrt(len(ours))
    return Suitability(float(ours.mean()), float(theirs.mean()), error)


def _block_reader(
    job: FinetuneJob, network: LoadedModel, columns: tuple[FeatureColumn, ...]
) -> Callable[[Tensor], Tensor]:
    """Return a function from uint8 images (B, 3, H, W) to features (B, columns, C) in fp32."""
    device = job.compute.device
    model, view = PooledFeatures(network.model, columns), network.view(device)

    def read(images: Tensor) -> Tensor:
        with job.compute.frozen.autocast():
            pooled = model(view(images.to(device)))
        return torch.stack([column.float() for column in pooled], 1)

    return read
