"""Many linear classifiers on the same features, trained at once.

Heads that see the same columns are one wide matrix, so a step is two products per set of columns
however many heads there are; the gradient of the softmax's cross-entropy is written down (P - Y),
so nothing is recorded. Features are standardised by the training images and divided by the root of
their number: then one grid of learning rates serves every network and width. SGD with momentum 0.9,
cosine to 0, no decay, as dinov2's linear evaluation; weights start at 0.

Shapes: n images, B of a batch, C width, H heads, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, cos, pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from gtacli.probing.features.cache import Features
from gtacli.probing.features.columns import Column

MOMENTUM = 0.9
_ROWS = 4096  # at a time where nothing is learnt


class Head(NamedTuple):
    """Attributes:
    columns: what it sees.
    lr: of standardised features.
    """

    columns: tuple[Column, ...]
    lr: float


class Score(NamedTuple):
    """Of a head on some images; larger is better. Of equal accuracies the surer one is."""

    accuracy: float
    minus_loss: float


@dataclass
class _Group:
    """Heads of the same columns: `weight` (C, H K), `bias` (H K), and their momenta."""

    heads: list[int]
    columns: tuple[Column, ...]
    rates: Tensor
    weight: Tensor
    bias: Tensor
    weight_momentum: Tensor
    bias_momentum: Tensor


class Heads:
    """Args:
    heads: any number, in any order.
    classes: K.
    scale: mean and 1 / standard deviation of every column that is seen.
    """

    def __init__(
        self, heads: Sequence[Head], classes: int, scale: dict[Column, tuple[Tensor, Tensor]]
    ) -> None:
        self.heads, self.classes, self.scale = list(heads), classes, scale
        self.device = next(iter(scale.values()))[0].device
        members: dict[tuple[Column, ...], list[int]] = {}
        for i, head in enumerate(heads):
            members.setdefault(head.columns, []).append(i)
        self._groups = [self._group(columns, which) for columns, which in members.items()]

    def train(
        self,
        features: Features,
        rows: Tensor,
        steps: int,
        batch: int,
        seed: int,
        advance: Callable[[int], object] = lambda steps: None,
    ) -> None:
        """`steps` steps on the images in `rows` (places in `features`), epoch by epoch shuffled."""
        order = _order(rows, steps, batch, seed)
        with fast_products():
            for step, chosen in enumerate(order):
                rate = 0.5 * (1 + cos(pi * step / steps))
                self._step(self._columns(features, chosen), features.labels[chosen], rate)
                advance(1)

    @torch.no_grad()
    def logits(self, features: Features, rows: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """(rows, logits (B, K) of every head), some rows at a time."""
        for chosen in rows.split(_ROWS):
            seen = self._columns(features, chosen)
            found: list[Tensor] = [torch.empty(0)] * len(self.heads)
            for group in self._groups:
                outputs = self._input(seen, group.columns) @ group.weight + group.bias
                for i, one in zip(group.heads, outputs.split(self.classes, 1), strict=True):
                    found[i] = one
            yield chosen, found

    def scores(self, features: Features, rows: Tensor) -> list[Score]:
        """Of every head on some images."""
        sums = torch.zeros(len(self.heads), 2, dtype=torch.float64)
        for chosen, logits in self.logits(features, rows):
            labels = features.labels[chosen].to(self.device)
            for i, one in enumerate(logits):
                loss = torch.nn.functional.cross_entropy(one, labels, reduction="sum")
                right = (one.argmax(1) == labels).sum()
                sums[i] += torch.stack([right.double(), -loss.double()]).cpu()
        return [Score(*one) for one in (sums / len(rows)).tolist()]

    def _group(self, columns: tuple[Column, ...], which: list[int]) -> _Group:
        width = sum(len(self.scale[column][0]) for column in columns)
        outputs = len(which) * self.classes
        rates = torch.tensor([self.heads[i].lr for i in which], device=self.device)
        zeros = [torch.zeros(width, outputs, device=self.device) for _ in range(2)]
        biases = [torch.zeros(outputs, device=self.device) for _ in range(2)]
        return _Group(which, columns, rates, zeros[0], biases[0], zeros[1], biases[1])

    def _columns(self, features: Features, rows: Tensor) -> dict[Column, Tensor]:
        """Standardised, (B, C) each, on the device."""
        return {
            column: features.columns[column][rows].to(self.device).sub_(mean).mul_(per_spread)
            for column, (mean, per_spread) in self.scale.items()
        }

    def _input(self, seen: dict[Column, Tensor], columns: tuple[Column, ...]) -> Tensor:
        whole = torch.cat([seen[column] for column in columns], 1)
        return whole.mul_(1 / sqrt(whole.shape[1]))

    @torch.no_grad()
    def _step(self, seen: dict[Column, Tensor], labels: Tensor, rate: float) -> None:
        labels = labels.to(self.device)
        rows = torch.arange(len(labels), device=self.device)
        for group in self._groups:
            inputs = self._input(seen, group.columns)
            logits = torch.addmm(group.bias, inputs, group.weight)
            error = logits.view(len(inputs), -1, self.classes).softmax(-1)
            error[rows, :, labels] -= 1
            # Each head's rate is in its gradient, so that momentum and step are one for all.
            error *= group.rates[:, None] / len(inputs)
            flat = error.view(len(inputs), -1)
            torch.addmm(
                group.weight_momentum, inputs.T, flat, beta=MOMENTUM, out=group.weight_momentum
            )
            group.bias_momentum.mul_(MOMENTUM).add_(flat.sum(0))
            group.weight.sub_(group.weight_momentum, alpha=rate)
            group.bias.sub_(group.bias_momentum, alpha=rate)


def standardised(
    features: Features, rows: Tensor, columns: Sequence[Column], device: torch.device
) -> dict[Column, tuple[Tensor, Tensor]]:
    """(mean, 1 / standard deviation) of each column, (C,), over some images; 0 for 1 / 0."""
    found = {}
    for column in columns:
        values = features.columns[column]
        parts = [values[chosen].double() for chosen in rows[:1]]
        total, squares = torch.zeros_like(parts[0]), torch.zeros_like(parts[0])
        first = parts[0]  # sums of differences from some image, against cancellation
        for chosen in rows.split(_ROWS):
            apart = values[chosen].double() - first
            total += apart.sum(0)
            squares += apart.square().sum(0)
        mean = total / len(rows)
        spread = (squares / len(rows) - mean.square()).clamp_min(0).sqrt()
        inverse = torch.where(spread > 1e-6 * (1 + first.abs()), 1 / spread, 0.0)
        found[column] = ((first + mean).float().to(device), inverse.float().to(device))
    return found


@contextmanager
def fast_products() -> Iterator[None]:
    """fp32 products in fewer bits of mantissa (TF32, or bf16 on a CPU that multiplies it): for
    training, as usual; what is measured is computed outside."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def steps_of(images: int, epochs: float, batch: int) -> int:
    return max(1, ceil(epochs * max(1, images // batch)))


def _order(rows: Tensor, steps: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Batches for so many steps; what an epoch leaves over is left out, unless it is all."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        for chosen in shuffled.split(batch)[: max(1, len(rows) // batch)]:
            if steps == 0:
                return
            steps -= 1
            yield chosen
