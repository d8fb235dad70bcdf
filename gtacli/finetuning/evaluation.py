"""Accuracy and attention drift on held-out images, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gtacli.data.loader import Batch
from gtacli.finetuning.attention_track import AttentionTrack
from gtacli.finetuning.per_class import mean_class_accuracy
from gtacli.measures.attention import comparable_rows
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import Request, Tap, TapOutputs, TappedViT, absolute_layers
from gtacli.runtime.devices import Compute, widen
from gtacli.runtime.distribution import ALONE, Processes

Batches = Callable[[], Iterable[Batch]]
CACHE_BYTES = 256 * 2**20


class Evaluator:
    """Top-1, top-5 and attention drift of a network on a fixed set of images.

    The drift is the GTA distance from the source: squared differences of the CLS rows' logits,
    summed over the patches, averaged over blocks, heads and images, both networks in eval mode.
    The source sees the same images every epoch, so its rows are computed once and kept where
    they fit.

    Args:
        target: the network.
        source: measure the drift from it; None: no drift.
        batches: () -> batches (uint8 images, labels, indices), the same every time; of several
            processes each has its own images.
        processes: that share the set; all get the figures of the whole.
        track: the attention's health, measured in the same pass.
    """

    def __init__(
        self,
        target: LoadedModel,
        source: LoadedModel | None,
        batches: Batches,
        compute: Compute,
        processes: Processes = ALONE,
        track: AttentionTrack | None = None,
    ) -> None:
        self.batches, self.compute, self.processes = batches, compute, processes
        self.track = track
        depth = len(target.model.blocks)  # type: ignore[arg-type]
        layers = absolute_layers("all", depth) if source or track else ()
        self.target = TappedViT(target.model, Request(layers))
        asked = Request(layers, output=False)
        self.source = TappedViT(source.model, asked) if source else None
        self._view = target.view(compute.device)
        self._source_view = (source or target).view(compute.device)
        self.by_class: list[tuple[int, int]] = []  # (hits, images) of each class, measured last
        self._taps: dict[int, list[Tap]] = {}
        self._bytes = 0

    @torch.no_grad()
    def __call__(self, prefix: str, last: int | None = None) -> dict[str, Any]:
        """`{prefix}_top1`, `{prefix}_top5`, `{prefix}_mean_class_top1` (fractions),
        `{prefix}_loss` (cross-entropy in nats), `attention_drift`, and `attention` (what `track`
        says); None where there is nothing to measure. `last` ends after that many batches."""
        self.target.eval()
        if self.track is not None:
            self.track.begin()
        device = self.compute.device
        # Losses, distances, hits at 5. float64 holds sums of fp32 numbers exactly or nearly so: the
        # figures do not depend on who measured which image.
        sums = widen(torch.zeros(3, device=device))
        by_class = widen(torch.zeros(2, self.target.model.num_classes, device=device))
        for number, (images, labels, indices, *_) in enumerate(self.batches()):
            if last is not None and number >= last:
                break
            if not len(images):
                continue
            images, labels = images.to(device), labels.to(device)
            with self.compute.autocast():
                reading = self._read(self.target, self._view(images))
            assert reading.logits is not None
            ranked = reading.logits.topk(min(5, reading.logits.shape[-1]), dim=-1).indices
            hits = ranked == labels[:, None]
            losses = F.cross_entropy(reading.logits.float(), labels, reduction="none")
            sums[0] += widen(losses).sum()
            taps = [*reading.taps.values()]
            source = None if self.source is None else self._source_taps(images, number)
            if source is not None:
                sums[1] += widen(_distances(taps, source)).sum()
            if self.track is not None:
                self.track.add(taps, source, indices)
            sums[2] += hits.sum()
            by_class[0].index_add_(0, labels, hits[:, 0].to(by_class.dtype))
            by_class[1] += labels.bincount(minlength=by_class.shape[1])
        loss, drift, top5 = self.processes.all_reduce(sums).tolist()
        by_class = self.processes.all_reduce(by_class).long()
        self.by_class = list(zip(*by_class.tolist(), strict=True))
        top1, count = by_class.sum(1).tolist()
        attention = None if self.track is None else self.track.figures()
        if not count:
            nothing = (f"{prefix}_{name}" for name in ("top1", "top5", "mean_class_top1", "loss"))
            return {**dict.fromkeys(nothing), "attention_drift": None, "attention": None}
        return {
            f"{prefix}_top1": top1 / count,
            f"{prefix}_top5": top5 / count,
            f"{prefix}_mean_class_top1": mean_class_accuracy(self.by_class),
            f"{prefix}_loss": loss / count,
            "attention_drift": drift / count if self.source is not None else None,
            "attention": attention,
        }

    @staticmethod
    def _read(tapped: TappedViT, images: Tensor) -> TapOutputs:
        return tapped.unpack(tapped(images), images.shape)

    def _source_taps(self, images: Tensor, number: int) -> list[Tap]:
        """Of batch `number`, kept from its first time on."""
        if number in self._taps:
            return [replace(t, row=t.logits.to(images.device)) for t in self._taps[number]]
        assert self.source is not None
        with self.compute.autocast():
            taps = [*self._read(self.source, self._source_view(images)).taps.values()]
        self._bytes += sum(t.logits.nbytes for t in taps)
        if self._bytes <= CACHE_BYTES:
            self._taps[number] = [replace(t, row=t.logits.cpu()) for t in taps]
        return taps


def _distances(target: Sequence[Tap], source: Sequence[Tap]) -> Tensor:
    """(B,) mean over blocks and heads."""
    rows = (comparable_rows(t, s) for t, s in zip(target, source, strict=True))
    return torch.stack([(t - s).square().sum(-1).mean((1, 2)) for t, s in rows]).mean(0)
