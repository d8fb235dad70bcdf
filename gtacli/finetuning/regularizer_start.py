"""The start of regularizers that learn something of the training images before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gtacli.finetuning.frozen_features import extract_features
from gtacli.finetuning.job import FinetuneJob
from gtacli.regularizers.base import Regularizer


def needs_start(regularizer: Regularizer[Any]) -> bool:
    """Return whether a regularizer learns something before the first step."""
    return type(regularizer).start is not Regularizer.start


@torch.no_grad()
def start_regularizers(job: FinetuneJob, max_batches: int | None = None) -> None:
    """Call `start` of the regularizers that have one, in a new run and in a resumed one."""
    view = (job.source or job.target).view(job.compute.device)

    def read(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        def on_pixels(pixels: Tensor) -> Tensor:
            with job.compute.frozen.autocast():
                return function(view(pixels.to(job.compute.device))).float()

        found = extract_features(job, job.records, max_batches, read=on_pixels)
        return found.values, found.labels

    for regularizer in job.task.regularizers.values():
        if needs_start(regularizer):
            regularizer.start(read, len(job.dataset.classes))
