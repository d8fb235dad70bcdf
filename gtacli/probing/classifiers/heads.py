"""Many linear classifiers on the same features, trained at once.

Heads with the same columns are one wide matrix, so a step is two products per set of columns
regardless of the number of heads; the gradient of the softmax cross-entropy is computed in closed
form (P - Y), without autograd. Features are standardized over the training images and divided by
the square root of their width, so one grid of learning rates serves every model and width. SGD with
momentum 0.9, cosine schedule to 0, no weight decay, as in dinov2's linear evaluation; weights start
at 0.

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

from gtacli.models.feature_columns import FeatureColumn
from gtacli.probing.features.cache import Features

MOMENTUM = 0.9
_ROWS = 4096  # rows at a time in evaluation


class Head(NamedTuple):
    """A linear classifier to train.

    Attributes:
        columns: its input, side by side.
        lr: learning rate for standardized features.
    """

    columns: tuple[FeatureColumn, ...]
    lr: float


class HeadScore(NamedTuple):
    """A head's score on some images; ties in accuracy are broken by the lower loss."""

    accuracy: float
    minus_loss: float


@dataclass
class _Group:
    """Heads with the same columns: `weight` (C, H K), `bias` (H K), and their momenta."""

    heads: list[int]
    columns: tuple[FeatureColumn, ...]
    rates: Tensor
    weight: Tensor
    bias: Tensor
    weight_momentum: Tensor
    bias_momentum: Tensor


class LinearHeads:
    """Linear classifiers that are trained together.

    Args:
        heads: any number, in any order.
        classes: K.
        scale: mean and 1 / standard deviation of every column in use.
    """

    def __init__(
        self, heads: Sequence[Head], classes: int, scale: dict[FeatureColumn, tuple[Tensor, Tensor]]
    ) -> None:
        self.heads, self.classes, self.scale = list(heads), classes, scale
        self.device = next(iter(scale.values()))[0].device
        members: dict[tuple[FeatureColumn, ...], list[int]] = {}
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
        """Train for `steps` steps on the images at `rows` of `features`, shuffled every epoch."""
        with fast_matmul():
            for step, chosen in enumerate(_make_batches(rows, steps, batch, seed)):
                rate = 0.5 * (1 + cos(pi * step / steps))
                self._step(self._standardize(features, chosen), features.labels[chosen], rate)
                advance(1)

    @torch.no_grad()
    def logits(self, features: Features, rows: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield (rows, logits (B, K) of every head), some rows at a time."""
        for chosen in rows.split(_ROWS):
            values = self._standardize(features, chosen)
            found: list[Tensor] = [torch.empty(0)] * len(self.heads)
            for group in self._groups:
                outputs = self._input(values, group.columns) @ group.weight + group.bias
                for i, one in zip(group.heads, outputs.split(self.classes, 1), strict=True):
                    found[i] = one
            yield chosen, found

    def scores(self, features: Features, rows: Tensor) -> list[HeadScore]:
        """Return the score of every head on some images."""
        sums = torch.zeros(len(self.heads), 2, dtype=torch.float64)
        for chosen, logits in self.logits(features, rows):
            labels = features.labels[chosen].to(self.device)
            for i, one in enumerate(logits):
                loss = torch.nn.functional.cross_entropy(one, labels, reduction="sum")
                right = (one.argmax(1) == labels).sum()
                sums[i] += torch.stack([right.double(), -loss.double()]).cpu()
        return [HeadScore(*one) for one in (sums / len(rows)).tolist()]

    def _group(self, columns: tuple[FeatureColumn, ...], which: list[int]) -> _Group:
        width = sum(len(self.scale[column][0]) for column in columns)
        outputs = len(which) * self.classes
        rates = torch.tensor([self.heads[i].lr for i in which], device=self.device)
        zeros = [torch.zeros(width, outputs, device=self.device) for _ in range(2)]
        biases = [torch.zeros(outputs, device=self.device) for _ in range(2)]
        return _Group(which, columns, rates, zeros[0], biases[0], zeros[1], biases[1])

    def _standardize(self, features: Features, rows: Tensor) -> dict[FeatureColumn, Tensor]:
        """Return the standardized columns, (B, C) each, on the device."""
        return {
            column: features.columns[column][rows].to(self.device).sub_(mean).mul_(inverse_std)
            for column, (mean, inverse_std) in self.scale.items()
        }

    def _input(
        self, values: dict[FeatureColumn, Tensor], columns: tuple[FeatureColumn, ...]
    ) -> Tensor:
        inputs = torch.cat([values[column] for column in columns], 1)
        return inputs.mul_(1 / sqrt(inputs.shape[1]))

    @torch.no_grad()
    def _step(self, values: dict[FeatureColumn, Tensor], labels: Tensor, rate: float) -> None:
        labels = labels.to(self.device)
        rows = torch.arange(len(labels), device=self.device)
        for group in self._groups:
            inputs = self._input(values, group.columns)
            logits = torch.addmm(group.bias, inputs, group.weight)
            error = logits.view(len(inputs), -1, self.classes).softmax(-1)
            error[rows, :, labels] -= 1
            # Each head's rate is in its gradient, so that all heads share momentum and step.
            error *= group.rates[:, None] / len(inputs)
            flat = error.view(len(inputs), -1)
            torch.addmm(
                group.weight_momentum, inputs.T, flat, beta=MOMENTUM, out=group.weight_momentum
            )
            group.bias_momentum.mul_(MOMENTUM).add_(flat.sum(0))
            group.weight.sub_(group.weight_momentum, alpha=rate)
            group.bias.sub_(group.bias_momentum, alpha=rate)


def compute_scales(
    features: Features, rows: Tensor, columns: Sequence[FeatureColumn], device: torch.device
) -> dict[FeatureColumn, tuple[Tensor, Tensor]]:
    """Compute (mean, 1 / standard deviation) of each column, (C,), over some images.

    The inverse is 0 for a constant feature.
    """
    found = {}
    for column in columns:
        values = features.columns[column]
        first = values[rows[0]].double()  # subtracted from all images, against cancellation
        total, squares = torch.zeros_like(first), torch.zeros_like(first)
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
def fast_matmul() -> Iterator[None]:
    """Multiply fp32 matrices in TF32, or in bf16 on a CPU that supports it; for training only."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def count_steps(images: int, epochs: float, batch: int) -> int:
    """Return the steps of some epochs, of which incomplete batches are dropped."""
    return max(1, ceil(epochs * max(1, images // batch)))


def _make_batches(rows: Tensor, steps: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Yield batches for `steps` steps; an epoch's incomplete batch is dropped unless it is all."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        for chosen in shuffled.split(batch)[: max(1, len(rows) // batch)]:
            if steps == 0:
                return
            steps -= 1
            yield chosen
