"""Class logits of a network on the images of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gtacli.data.augment.transforms import EvalTransform
from gtacli.data.base import Record
from gtacli.data.labels import multi_hot
from gtacli.data.loader import make_loader
from gtacli.data.store import ImageStore
from gtacli.errors import GtaError
from gtacli.models.loading import LoadedModel
from gtacli.runtime.devices import Compute, choose_workers


class ClassLogits(NamedTuple):
    """The logits of the images that can be read.

    Attributes:
        values: fp32 (n, classes).
        labels: int64 (n,); of images with any number of labels zeros and ones (n, classes).
    """

    values: Tensor
    labels: Tensor

    @property
    def has_several(self) -> bool:
        """True if an image has any number of labels."""
        return self.labels.ndim == 2


@torch.inference_mode()
def class_logits(
    model: LoadedModel,
    records: Sequence[Record],
    compute: Compute,
    batch_size: int = 64,
    workers: int | None = None,
) -> ClassLogits:
    """Return the logits of images in the evaluation view.

    Raises GtaError if no image can be read.
    """
    network = model.model.to(compute.device).eval()
    as_input = model.view(compute.device)
    transform = EvalTransform(model.image_size, model.crop_pct, model.interpolation)
    how = model.interpolation
    store = ImageStore(tuple(records), transform.load_size, interpolation=how, cache="none")
    readers = choose_workers(workers, compute.device, store.cached)
    found: list[tuple[Tensor, Tensor]] = []
    for batch in make_loader(store, transform, batch_size, train=False, workers=readers):
        if len(batch.images):
            with compute.autocast():
                logits = network(as_input(batch.images.to(compute.device)))
            found.append((logits.float().cpu(), batch.labels))
    if not found:
        raise GtaError(f"none of {len(records)} images can be read", option="data")
    values, labels = (torch.cat(column) for column in zip(*found, strict=True))
    return ClassLogits(values, multi_hot(labels, values.shape[1]) if labels.ndim == 2 else labels)
