"""The labels of images as tensors: one class each, or any number of them.

The labels of an image with several are a row of numbers, filled up with `NO_LABEL`: it takes little
memory where there are many classes. `multi_hot` makes zeros and ones of it.

Shapes: N images, M the largest number of labels of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gtacli.data.base import NO_LABEL, Record


def label_tensor(records: Sequence[Record]) -> Tensor:
    """Return int64 labels (N,), or (N, M) of images with several."""
    if not records or records[0].labels is None:
        return torch.tensor([record.label for record in records], dtype=torch.int64)
    most = max(len(record.every_label) for record in records) or 1
    rows = [[*r.every_label] + [NO_LABEL] * (most - len(r.every_label)) for r in records]
    return torch.tensor(rows, dtype=torch.int64)


def multi_hot(labels: Tensor, classes: int) -> Tensor:
    """Return fp32 zeros and ones (N, K) of labels (N, M)."""
    ones = torch.zeros(len(labels), classes + 1, device=labels.device)
    ones.scatter_(1, torch.where(labels < 0, classes, labels), 1.0)  # the fill goes into the last
    return ones[:, :classes]
