"""An estimate, before training, of whether the labels determine how attention should change.

The training images are split into folds. A linear probe that was fitted to the frozen features of
the other folds classifies a fold, and the gradient of its loss in the weights of a block's queries
and keys is computed. Because the probe has not seen the fold, such a gradient does not point to
where the fold could be memorized. What all folds agree on is a change of attention that helps
images which were not trained on; the rest is noise:

    g_f = m + e_f
    signal |m|^2 = mean of <g_f, g_h> over f != h,   noise |e|^2 = mean of |g_f|^2, less |m|^2

The agreement of a block is signal / noise of the gradient that all training images give together.
Where it is small, fine-tuning mostly moves attention at random, and keeping the source's is safe;
where it is large, holding on to the source costs accuracy. It has no unit: neither the scale of the
weights nor that of the loss matters. It grows in proportion to the number of images.

Ours; related are stiffness (Fort et al., arXiv 1901.09491) and the signal to noise ratio of
gradients (Liu et al., arXiv 2001.07384).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.data.base import Record
from gtacli.finetuning.frozen_features import (
    classifier_input,
    evaluation_batches,
    training_features,
)
from gtacli.finetuning.linear_head import LinearHead, fit_probe
from gtacli.finetuning.prepare import FinetuneJob

FOLDS = 5


@dataclass(frozen=True)
class Agreement:
    """An estimate for a job.

    Attributes:
        blocks: agreement of each block.
        accuracy: of the linear probes on the folds that they were not fitted to (a fraction).
    """

    blocks: list[float]
    accuracy: float


def measure_agreement(job: FinetuneJob, records: tuple[Record, ...]) -> Agreement | None:
    """Estimate the agreement of every block from some of a job's training images.

    None where it cannot be estimated: a single image in most classes, or a model whose queries and
    keys have no joint weight.

    Raises GtaError if no image can be read.
    """
    weights = query_key_weights(job.target.model)
    features = training_features(job, records)
    classes = len(job.dataset.classes)
    counts = features.labels.bincount(minlength=classes)
    if not weights or 2 * int((counts > 1).sum()) < int((counts > 0).sum()):
        return None
    folds = assign_folds(features.labels, FOLDS)
    total: list[Tensor] = []
    squares = torch.zeros(len(weights), dtype=torch.float64)
    hits = 0.0
    for fold in range(FOLDS):
        inside = folds == fold
        if not inside.any():
            return None
        head = fit_probe(features.select(~inside), classes)
        hits += head.accuracy(features.select(inside)) * int(inside.sum())
        chosen = tuple(records[i] for i in features.indices[inside].tolist())
        gradients = _gradients(job, weights, head, chosen)
        squares += _squared_norms(gradients)
        total = gradients if not total else [a + b for a, b in zip(total, gradients, strict=True)]
    scale = len(job.records) / len(records)
    pairs = zip(_squared_norms(total).tolist(), squares.tolist(), strict=True)
    blocks = [scale * signal_to_noise(s, q, FOLDS) for s, q in pairs]
    return Agreement(blocks, hits / len(features.labels))


def signal_to_noise(square_of_sum: float, sum_of_squares: float, folds: int) -> float:
    """Return signal / noise of the mean of `folds` gradients, at least 0.

    Args:
        square_of_sum: squared norm of their sum.
        sum_of_squares: sum of their squared norms.
    """
    signal = (square_of_sum - sum_of_squares) / (folds * (folds - 1))
    noise = sum_of_squares / folds - signal
    if signal <= 0:
        return 0.0
    return folds * signal / noise if noise > 0 else float("inf")


def assign_folds(labels: Tensor, folds: int) -> Tensor:
    """Return the fold of each image: every class is spread evenly, and so are the first images."""
    places: dict[int, int] = {}
    result = []
    for label in labels.tolist():
        place = places.get(label, label)  # classes begin at different folds
        result.append(place % folds)
        places[label] = place + 1
    return torch.tensor(result, dtype=torch.int64)


def query_key_weights(model: nn.Module) -> list[tuple[Tensor, int]]:
    """Return each block's joint projection, with the number of rows that queries and keys have.

    It is empty for a model with separate projections, or with adapters on them.
    """
    found: list[tuple[Tensor, int]] = []
    for block in cast(Any, model).blocks:
        joint = getattr(block.attn, "qkv", None)
        if not isinstance(joint, nn.Linear):
            return []
        found.append((joint.weight, joint.out_features * 2 // 3))
    return found


def _gradients(
    job: FinetuneJob,
    weights: list[tuple[Tensor, int]],
    head: LinearHead,
    records: tuple[Record, ...],
) -> list[Tensor]:
    """Return the gradients of the mean loss of a classifier on images, by block."""
    device = job.compute.device
    job.target.model.eval()
    head = LinearHead(head.weight.to(device), head.bias.to(device))
    sums = [torch.zeros_like(weight[:rows], dtype=torch.float32) for weight, rows in weights]
    learned = [weight.requires_grad for weight, _ in weights]
    for weight, _ in weights:
        weight.requires_grad_(True)
    for batch in evaluation_batches(job, records):
        logits = head.logits(classifier_input(job, batch.images))
        loss = F.cross_entropy(logits, batch.labels.to(device), reduction="sum")
        gradients = torch.autograd.grad(loss, [weight for weight, _ in weights])
        for total, gradient, (_, rows) in zip(sums, gradients, weights, strict=True):
            total += gradient[:rows].float()
    for (weight, _), before in zip(weights, learned, strict=True):
        weight.requires_grad_(before)
    return [job.processes.all_reduce(total) / len(records) for total in sums]


def _squared_norms(gradients: list[Tensor]) -> Tensor:
    return torch.stack([g.double().square().sum().cpu() for g in gradients])
