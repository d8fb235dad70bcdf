"""`gta probe linear --protocol mae`: MAE's linear probing (He et al., arXiv 2111.06377, A.1).

Batch normalization without affine parameters, then a linear layer, on features of augmented views
(random resized crop, flip); LARS without weight decay, base rate 0.1 per 256 images, 10 epochs of
warm-up, half a cosine; 90 epochs of batches of 16,384. The model is frozen and in eval mode, so a
batch of features is computed in smaller ones.

The published code reports the best epoch by its accuracy on the test images (`on_test`); here the
last one counts. With fewer images than the batch size all are one batch, and the learning rate is
scaled to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import Any

import torch
from timm.optim import Lars
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.data.augment.transforms import TrainTransform
from gtacli.data.base import Record
from gtacli.data.loader import ImageStore, make_loader
from gtacli.errors import RunError
from gtacli.models.feature_columns import FeatureColumn, PooledFeatures
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import has_cls
from gtacli.probing.features.cache import Features, ProgressBar
from gtacli.probing.features.evaluation import ProbeData, ProbeResult, accuracy_metrics, to_numpy
from gtacli.runtime.devices import choose_workers


@dataclass(frozen=True)
class MaeProtocol:
    """Options of the protocol.

    Attributes:
        batch: images a step.
        on_test: report the best epoch by its accuracy on the test images.
    """

    epochs: int = 90
    batch: int = 16384
    base_lr: float = 0.1
    warmup: int = 10
    on_test: bool = False

    def lr(self, epoch: float, batch: int) -> float:
        """Return the learning rate at a fractional epoch, for batches of `batch` images."""
        full = self.base_lr * batch / 256
        if epoch < self.warmup:
            return full * epoch / self.warmup
        return full * 0.5 * (1 + cos(pi * (epoch - self.warmup) / (self.epochs - self.warmup)))


class MaeHead:
    """The classifier and its optimizer."""

    def __init__(self, width: int, classes: int, device: torch.device, seed: int = 0) -> None:
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6).to(device)
        self.linear = nn.Linear(width, classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(self.linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)
        self.linear.to(device)
        # Only the matrix has a trust ratio.
        groups = [
            {"params": [self.linear.weight], "always_adapt": True},
            {"params": [self.linear.bias], "always_adapt": False},
        ]
        self.optimizer = Lars(groups, lr=0.0, momentum=0.9, weight_decay=0.0, trust_coeff=0.001)

    def step(self, features: Tensor, labels: Tensor, lr: float) -> None:
        """Take one optimizer step on features (B, C)."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.norm.train()
        # A single image has no variance.
        normed = self.norm(features) if len(features) > 1 else features * 0
        F.cross_entropy(self.linear(normed), labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def top5(self, features: Tensor) -> Tensor:
        """Return the five most likely classes (B, 5), or all if there are fewer."""
        self.norm.eval()
        logits: Tensor = self.linear(self.norm(features))
        return logits.topk(min(5, logits.shape[1])).indices


def linear_mae(
    data: ProbeData, model: LoadedModel, protocol: MaeProtocol, progress: ProgressBar | None = None
) -> ProbeResult:
    """Compute the test accuracy after the last epoch; for the metrics see `results.LinearResult`.

    `data.features` "all" stands for the CLS token, or the mean of the patches without one.
    """
    columns = _columns(data, model)
    test = data.extract(model, data.splits.test, columns)
    device, train = data.cache.compute.device, data.splits.train
    head = MaeHead(test.values.shape[1], len(data.splits.classes), device, data.seed)
    views = _AugmentedFeatures(data, model, columns, train)
    batch = min(protocol.batch, len(train))
    steps = len(train) // batch
    best: tuple[Tensor, int] | None = None
    progress = progress or (lambda total: nullcontext(lambda done: None))
    with progress(protocol.epochs * len(train)) as advance:
        for epoch in range(protocol.epochs):
            for step, (features, labels) in enumerate(views.batches(epoch, batch)):
                head.step(features, labels, protocol.lr(epoch + step / steps, batch))
                advance(len(labels))
            if protocol.on_test or epoch == protocol.epochs - 1:
                hits = _hits(head, test, device)
                if best is None or hits[:, 0].sum() > best[0][:, 0].sum():
                    best = hits, epoch
    assert best is not None
    hits, epoch = best
    top1, top5 = to_numpy(hits[:, 0]), to_numpy(hits.any(1))
    metrics: dict[str, Any] = {
        "protocol": "mae",
        **accuracy_metrics("top1", top1),
        **accuracy_metrics("top5", top5),
        "chosen_on": "test" if protocol.on_test else None,
        "epoch": epoch,
        "epochs": protocol.epochs,
        "lr": protocol.base_lr * batch / 256,
        "head_batch": batch,
    }
    per_image = {"top1": top1, "top5": top5}
    readable = len(train) - len(views.store.skipped)
    return ProbeResult(metrics, readable, len(test), test.keys, per_image, columns)


def _columns(data: ProbeData, model: LoadedModel) -> tuple[FeatureColumn, ...]:
    if data.features != "all":
        return data.columns(model)
    last = len(model.model.blocks) - 1  # type: ignore[arg-type]
    return (FeatureColumn(last, "cls" if has_cls(model.model) else "mean"),)


class _AugmentedFeatures:
    """Features of augmented training images, epoch by epoch."""

    def __init__(
        self,
        data: ProbeData,
        model: LoadedModel,
        columns: Sequence[FeatureColumn],
        records: Sequence[Record],
    ) -> None:
        self.data, self.compute = data, data.cache.compute
        self.columns = PooledFeatures(model.model.eval().to(self.compute.device), columns)
        self.as_input = model.view(self.compute.device)
        # As published, crops are taken from the full-size image: not even the smallest is enlarged.
        smallest = TrainTransform.scale[0]
        self.transform = TrainTransform(model.image_size, load_ratio=1 / sqrt(smallest))
        self.store = ImageStore(records, self.transform.load_size, training=True)
        threads, cached = data.cache.threads, self.store.cached
        self.workers = choose_workers(threads, self.compute.device, cached)

    def batches(self, epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (features (size, C), labels); an incomplete batch is dropped unless it is all."""
        features: list[Tensor] = []
        labels: list[Tensor] = []
        count, complete = 0, False
        for more_features, more_labels in self._extract(epoch):
            features.append(more_features)
            labels.append(more_labels)
            count += len(more_labels)
            while count >= size:
                all_features, all_labels = torch.cat(features), torch.cat(labels)
                yield all_features[:size], all_labels[:size]
                features, labels = [all_features[size:]], [all_labels[size:]]
                count, complete = count - size, True
        if count and not complete:
            yield torch.cat(features), torch.cat(labels)

    def _extract(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = make_loader(
            self.store,
            self.transform,
            self.data.cache.batch_size,
            train=True,
            seed=self.data.seed,
            epoch=epoch,
            workers=self.workers,
            pin_memory=True,
        )
        for images, labels, *_ in loader:
            self.data.skipped |= self.store.skipped
            if not len(images):
                continue
            inputs = self.as_input(images.to(self.compute.device, non_blocking=True))
            with torch.no_grad(), self.compute.autocast():
                values = torch.cat(self.columns(inputs), 1).float()
            if not values.isfinite().all():
                raise RunError("some features are not finite (NaN or infinite)")
            yield values, labels.to(self.compute.device)


def _hits(head: MaeHead, test: Features, device: torch.device) -> Tensor:
    """Return which of the five most likely classes is each test image's: bool (n, 5)."""
    found = []
    for rows in torch.arange(len(test)).split(4096):
        values = torch.cat([column[rows] for column in test.columns.values()], 1)
        found.append(head.top5(values.to(device)).cpu() == test.labels[rows, None])
    return torch.cat(found)
