"""Accuracy, attention drift and attention metrics on held-out images, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from gtacli.data.labels import multi_hot
from gtacli.data.loader import Batch
from gtacli.finetuning.attention_tracker import AttentionTracker
from gtacli.finetuning.losses import ClassLoss
from gtacli.finetuning.per_class import mean_class_accuracy
from gtacli.finetuning.results import EpochAttention
from gtacli.measures.attention import comparable_rows
from gtacli.measures.multilabel import LabelScores, score_labels
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import Request, Tap, TapOutputs, TappedViT, absolute_layers
from gtacli.runtime.devices import Compute, widen
from gtacli.runtime.distribution import ALONE, Processes

CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a set of images; None where there was nothing to measure.

    Attributes:
        top1, top5, mean_class_top1: accuracies (fractions).
        loss: cross-entropy in nats.
        drift: attention drift, see `Evaluator`.
        attention: what the tracker has measured.
        by_class: (hits, images) of each class.
        labels: metrics of images with any number of labels, in place of the accuracies.
    """

    top1: float | None = None
    top5: float | None = None
    mean_class_top1: float | None = None
    loss: float | None = None
    drift: float | None = None
    attention: EpochAttention | None = None
    by_class: Sequence[tuple[int, int]] = ()
    labels: LabelScores | None = None

    @property
    def score(self) -> float | None:
        """The metric by which weights are chosen: accuracy, or mAP of any number of labels."""
        return self.top1 if self.labels is None else self.labels.map


class Evaluator:
    """An evaluation of a network on a fixed set of images, repeatable while it learns.

    The drift is the GTA distance from the source: squared differences of the CLS rows' logits,
    summed over the patches, averaged over blocks, heads and images, both networks in eval mode.
    The source gets the same images every epoch, so its rows are computed once and cached where
    they fit.

    Args:
        target: the network.
        source: the network that the drift is measured from; None: no drift.
        batches: () -> batches of uint8 images, the same every time; with several processes each
            has its own images, in as many batches (`stand_in` in place of an empty one).
        processes: share the set; all of them get the metrics of the whole.
        tracker: attention metrics to measure in the same pass.

    Attributes:
        multi_label: whether an image has any number of labels.
    """

    def __init__(
        self,
        target: LoadedModel,
        source: LoadedModel | None,
        batches: Callable[[], Iterable[Batch]],
        compute: Compute,
        processes: Processes = ALONE,
        tracker: AttentionTracker | None = None,
    ) -> None:
        self.batches, self.compute, self.processes = batches, compute, processes
        self.tracker = tracker
        self.multi_label = target.multi_label
        depth = len(target.model.blocks)  # type: ignore[arg-type]
        layers = absolute_layers("all", depth) if source or tracker else ()
        self.target = TappedViT(target.model, Request(layers))
        without_logits = Request(layers, output=False)
        self.source = TappedViT(source.model, without_logits) if source else None
        self._view = target.view(compute.device)
        self._source_view = (source or target).view(compute.device)
        self._taps: dict[int, list[Tap]] = {}  # the source's, by batch
        self._bytes = 0
        self._outputs: list[tuple[Tensor, Tensor, Tensor]] = []  # indices, logits, labels

    @torch.no_grad()
    def __call__(self, max_batches: int | None = None) -> Evaluation:
        """Evaluate the network as it is, on at most `max_batches` batches."""
        self.target.eval()
        if self.tracker is not None:
            self.tracker.reset()
        device = self.compute.device
        # float64 holds sums of fp32 numbers exactly or nearly so: the metrics do not depend on
        # which process has which image.
        sums = widen(torch.zeros(4, device=device))  # loss, drift, hits at 5, images
        by_class = widen(torch.zeros(2, self.target.model.num_classes, device=device))
        self._outputs = []
        for number, batch in enumerate(islice(self.batches(), max_batches)):
            self._add(batch, number, sums, by_class)
        loss, drift, top5, images = self.processes.all_reduce(sums).tolist()
        counts = self.processes.all_reduce(by_class).long()
        hits = int(counts[0].sum())
        labels = self._score_labels() if self.multi_label else None
        attention = None if self.tracker is None else self.tracker.metrics()
        classes: list[tuple[int, int]] = list(zip(*counts.tolist(), strict=True))
        if not images:
            return Evaluation(by_class=classes)
        one_class = labels is None
        return Evaluation(
            top1=hits / images if one_class else None,
            top5=top5 / images if one_class else None,
            mean_class_top1=mean_class_accuracy(classes) if one_class else None,
            labels=labels,
            loss=loss / images,
            drift=drift / images if self.source is not None else None,
            attention=attention,
            by_class=classes,
        )

    def _score_labels(self) -> LabelScores | None:
        """Return the metrics of the labels of all processes' images; None without images."""
        parts = [part for theirs in self.processes.gather(self._outputs) for part in theirs]
        if not parts:
            return None
        indices, logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        order = indices.argsort()  # so that the metrics do not depend on the number of processes
        return score_labels(logits[order], labels[order])

    def _add(self, batch: Batch, number: int, sums: Tensor, by_class: Tensor) -> None:
        """Add the metrics of a batch, summed over its images."""
        images, labels = (t.to(self.compute.device) for t in (batch.images, batch.labels))
        with self.compute.autocast():
            reading = self._read(self.target, self._view(images))
        source = None if self.source is None else self._source_taps(images, number)
        if batch.stand_in:
            return
        assert reading.logits is not None
        logits = reading.logits.float()
        if self.multi_label:
            truth = multi_hot(labels, logits.shape[-1])
            losses = ClassLoss(multi_label=True).each(logits, truth)
            self._outputs.append((batch.indices, logits.cpu(), truth.cpu()))
        else:
            ranked = reading.logits.topk(min(5, logits.shape[-1]), dim=-1).indices
            hits = ranked == labels[:, None]
            losses = F.cross_entropy(logits, labels, reduction="none")
            sums[2] += hits.sum()
            by_class[0].index_add_(0, labels, hits[:, 0].to(by_class.dtype))
            by_class[1] += labels.bincount(minlength=by_class.shape[1])
        sums[0] += widen(losses).sum()
        sums[3] += len(images)
        taps = [*reading.taps.values()]
        if source is not None:
            sums[1] += widen(_distances(taps, source)).sum()
        if self.tracker is not None:
            self.tracker.add(taps, source, batch.indices)

    @staticmethod
    def _read(tapped: TappedViT, images: Tensor) -> TapOutputs:
        return tapped.unpack(tapped(images), images.shape)

    def _source_taps(self, images: Tensor, number: int) -> list[Tap]:
        """Return the source's attention on batch `number`, cached in its first evaluation."""
        if number in self._taps:
            return [replace(t, row=t.logits.to(images.device)) for t in self._taps[number]]
        assert self.source is not None
        with self.compute.autocast():
            taps = [*self._read(self.source, self._source_view(images)).taps.values()]
        self._bytes += sum(t.logits.nbytes for t in taps)
        # All or none: processes that share the source's weights run it together.
        if not self.processes.combine(0, self._bytes > CACHE_BYTES)[1]:
            self._taps[number] = [replace(t, row=t.logits.cpu()) for t in taps]
        return taps


def _distances(target: Sequence[Tap], source: Sequence[Tap]) -> Tensor:
    """Return the squared distances (B,), averaged over blocks and heads."""
    rows = (comparable_rows(t, s) for t, s in zip(target, source, strict=True))
    return torch.stack([(t - s).square().sum(-1).mean((1, 2)) for t, s in rows]).mean(0)
