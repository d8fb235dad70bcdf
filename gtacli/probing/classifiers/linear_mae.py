"""`gta probe linear --protocol mae`: MAE's linear probing (He et al., arXiv 2111.06377, A.1).

Batch normalisation without affine parameters, then a linear layer, on features of augmented views
(random resized crop, flip); LARS without weight decay, base rate 0.1 per 256 images, 10 epochs of
warm-up, half a cosine; 90 epochs of batches of 16,384. The network is frozen and in eval mode, so
a batch of any size is made of smaller ones.

The published code reports the best epoch by its accuracy on the test images (`on_test`); here the
last one counts. Where there are fewer images than a batch wants, all are one batch, and the rate is
that of as many.
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
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.cache import Features, Progress
from gtacli.probing.features.columns import Column, Columns
from gtacli.probing.features.evaluation import Bench, Outcome, accuracy, numpy
from gtacli.runtime.devices import choose_workers


@dataclass(frozen=True)
class MaeProtocol:
    """`batch` images a step; `on_test`: the best epoch by its accuracy on the test images."""

    epochs: int = 90
    batch: int = 16384
    base_lr: float = 0.1
    warmup: int = 10
    on_test: bool = False

    def lr(self, epoch: float, batch: int) -> float:
        """At a point of an epoch, for batches of so many images."""
        full = self.base_lr * batch / 256
        if epoch < self.warmup:
            return full * epoch / self.warmup
        return full * 0.5 * (1 + cos(pi * (epoch - self.warmup) / (self.epochs - self.warmup)))


class MaeHead:
    """The classifier and its optimiser, for features of a width."""

    def __init__(self, width: int, classes: int, device: torch.device, seed: int = 0) -> None:
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6).to(device)
        self.linear = nn.Linear(width, classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(self.linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)
        self.linear.to(device)
        # The trust ratio is of the matrix alone.
        groups = [
            {"params": [self.linear.weight], "always_adapt": True},
            {"params": [self.linear.bias], "always_adapt": False},
        ]
        self.optimizer = Lars(groups, lr=0.0, momentum=0.9, weight_decay=0.0, trust_coeff=0.001)

    def step(self, features: Tensor, labels: Tensor, lr: float) -> None:
        """One step on features (B, C)."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.norm.train()
        # Of a single image there is no variance.
        normed = self.norm(features) if len(features) > 1 else features * 0
        F.cross_entropy(self.linear(normed), labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def ranked(self, features: Tensor) -> Tensor:
        """(B, 5) the likeliest classes, or as many as there are."""
        self.norm.eval()
        logits: Tensor = self.linear(self.norm(features))
        return logits.topk(min(5, logits.shape[1])).indices


def linear_mae(
    bench: Bench, model: LoadedModel, protocol: MaeProtocol, progress: Progress | None = None
) -> Outcome:
    """The share of test images that the classifier gets right after the last epoch.

    `bench.features` "all" stands for the CLS token, or the mean of the patches where there is none.
    """
    columns = _columns(bench, model)
    test = bench.see(model, bench.parts.test, columns)
    device, train = bench.cache.compute.device, bench.parts.train
    head = MaeHead(test.values.shape[1], len(bench.parts.classes), device, bench.seed)
    views = _Views(bench, model, columns, train)
    batch = min(protocol.batch, len(train))
    steps = len(train) // batch
    best: tuple[Tensor, int] | None = None
    shown = progress or (lambda total: nullcontext(lambda done: None))
    with shown(protocol.epochs * len(train)) as advance:
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
    right, ranked = numpy(hits[:, 0]), numpy(hits.any(1))
    figures: dict[str, Any] = {
        "protocol": "mae",
        **accuracy("top1", right),
        **accuracy("top5", ranked),
        "chosen_on": "test" if protocol.on_test else None,
        "epoch": epoch,
        "epochs": protocol.epochs,
        "lr": protocol.base_lr * batch / 256,
        "head_batch": batch,
    }
    each = {"top1": right, "top5": ranked}
    readable = len(train) - len(views.store.skipped)
    return Outcome(figures, readable, len(test), test.keys, each, columns)


def _columns(bench: Bench, model: LoadedModel) -> tuple[Column, ...]:
    if bench.features != "all":
        return bench.columns(model)
    last = len(model.model.blocks) - 1  # type: ignore[arg-type]
    return (Column(last, "mean" if getattr(model.model, "cls_token", None) is None else "cls"),)


class _Views:
    """Features of augmented training images, epoch by epoch."""

    def __init__(
        self, bench: Bench, model: LoadedModel, columns: Sequence[Column], records: Sequence[Record]
    ) -> None:
        self.bench, self.compute = bench, bench.cache.compute
        self.columns = Columns(model.model.eval().to(self.compute.device), columns)
        self.as_input = model.view(self.compute.device)
        # Published crops are of the whole image: even the smallest is not to be an enlarged one.
        smallest = TrainTransform.scale[0]
        self.transform = TrainTransform(model.image_size, load_ratio=1 / sqrt(smallest))
        self.store = ImageStore(records, self.transform.load_size)
        threads, cached = bench.cache.threads, self.store.cached
        self.workers = choose_workers(threads, self.compute.device, cached)

    def batches(self, epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(features (size, C), labels); what an epoch leaves over is left out, unless it is all."""
        features: list[Tensor] = []
        labels: list[Tensor] = []
        count, whole_ones = 0, False
        for more, of in self._described(epoch):
            features.append(more)
            labels.append(of)
            count += len(of)
            while count >= size:
                whole, all_of = torch.cat(features), torch.cat(labels)
                yield whole[:size], all_of[:size]
                features, labels = [whole[size:]], [all_of[size:]]
                count, whole_ones = count - size, True
        if count and not whole_ones:
            yield torch.cat(features), torch.cat(labels)

    def _described(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = make_loader(
            self.store,
            self.transform,
            self.bench.cache.batch_size,
            train=True,
            seed=self.bench.seed,
            epoch=epoch,
            workers=self.workers,
            pin_memory=True,
        )
        for images, labels, *_ in loader:
            self.bench.skipped |= self.store.skipped
            if not len(images):
                continue
            inputs = self.as_input(images.to(self.compute.device, non_blocking=True))
            with torch.no_grad(), self.compute.autocast():
                values = torch.cat(self.columns(inputs), 1).float()
            if not values.isfinite().all():
                raise RunError("features: some are not finite (NaN or infinite)")
            yield values, labels.to(self.compute.device)


def _hits(head: MaeHead, test: Features, device: torch.device) -> Tensor:
    """bool (n, 5)."""
    found = []
    for rows in torch.arange(len(test)).split(4096):
        values = torch.cat([column[rows] for column in test.columns.values()], 1)
        found.append(head.ranked(values.to(device)).cpu() == test.labels[rows, None])
    return torch.cat(found)
